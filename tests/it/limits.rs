//! Every limit of a listener, tested by a client that breaks it, and every certificate it must turn away. Time limits that
//! only a bad client meets are small; a good client has seconds. Nothing is waited for but its condition.

mod certificates;
mod connections;
mod devices;
mod drain;
mod enrollment;
mod fixture;
mod operators;
mod operators_time;
mod raw;
mod requests;
mod sizes;

use std::{io, time::Duration};

use fixture::{Running, soon};
use fleetmend_controller::config::Span;
use fleetmend_proto::v1;
use fleetmend_tests::tls::TlsClient;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tonic::Status;

const REPORT: &str = "/fleetmend.v1.AgentService/Report";
const SUBSCRIBE: &str = "/fleetmend.v1.AgentService/Subscribe";
const BEGIN: &str = "/fleetmend.v1.AgentService/Begin";
/// A time limit that no good client of the test has to meet.
const SHORT: Span = Span(Duration::from_millis(300));
/// One that good clients of the test meet, on a busy machine too.
const FAIR: Span = Span(Duration::from_secs(3));
/// Clocks of two threads are read one after the other.
const SLACK: Duration = Duration::from_millis(50);

/// Reads to the end; `Ok` for a plain close, `Err` with the alert otherwise.
async fn end_of(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut buffer = [0; 4096];
    soon("the end of a connection", async {
        while stream.read(&mut buffer).await? > 0 {}
        Ok(())
    })
    .await
}

async fn report(agents: &Running, tls: &TlsClient) -> Result<(), Status> {
    agents.client(tls).await.report(v1::ReportRequest::default()).await.map(|_| ())
}

/// What a client sees of a listener that turned it away: the alert at its first read, or no connection at all.
async fn turned_away(agents: &Running, tls: &TlsClient) -> String {
    match tls.connect(agents.addr).await {
        Err(error) => error.to_string(),
        Ok(mut stream) => end_of(&mut stream).await.expect_err("an alert").to_string(),
    }
}
