//! The load generator: devices over the real protocol and TLS, no disk. Obeys lines; answers with one JSON line each.
//!
//! `connect N` opens the connections and streams of the first N devices, `report S` keeps one report of one outcome
//! outstanding a device for S seconds, `command N` measures N commands from the operators' API to the durable result,
//! `order N` measures N times from a failed update's report to the order it causes, `drop` closes all connections.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use fleetmend_agent::{
    enroll,
    identity::{Identity, PendingKey},
    link::{self, Channel, ChannelSettings, Endpoint, ServerRoot},
    platform::Machine,
};
use fleetmend_proto::{
    FleetId, SystemClock,
    convert::phase_to_wire,
    order::OrderPhase,
    v1::{self, agent_service_client::AgentServiceClient},
};
use futures::StreamExt as _;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncBufReadExt as _;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

#[derive(clap::Args)]
pub struct ClientArgs {
    #[arg(long)]
    server_root: PathBuf,
    #[arg(long)]
    fleet: FleetId,
    /// Agents' endpoint.
    #[arg(long)]
    agents: String,
    /// Folder of identities; those that are missing are enrolled.
    #[arg(long)]
    identities: PathBuf,
    #[arg(long)]
    enrollment: Option<String>,
    /// Enrolment tokens, one a line; each is used 500 times at most.
    #[arg(long)]
    tokens: Option<PathBuf>,
    #[arg(long)]
    api: Option<String>,
    #[arg(long)]
    api_token: Option<String>,
    #[arg(long)]
    devices: usize,
}

/// One device of the load: its identity, and while connected its channel and stream.
struct Device {
    identity: Identity,
    /// Outcomes sent so far; never starts again within a folder of identities, since each run has an epoch of its own.
    seq: i64,
    live: Option<Live>,
}

struct Live {
    channel: Channel,
    stream: Streaming<v1::Directive>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Connected {
    pub connected: usize,
    pub seconds: f64,
}

/// Latencies in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub count: u64,
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub mean_ms: f64,
}

/// Reads orders from standard input until it closes.
pub async fn obey(args: ClientArgs) -> anyhow::Result<()> {
    super::machine::raise_open_files()?;
    let mut load = Load::prepare(args).await?;
    println!("{}", serde_json::json!({"enrolled": load.devices.len()}));
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let (word, count) = line.split_once(' ').unwrap_or((&line, "0"));
        let count: usize = count.parse().with_context(|| format!("no number in {line:?}"))?;
        let answer = match word {
            "connect" => load.connect(count).await.and_then(|it| Ok(serde_json::to_value(it)?)),
            "report" => {
                load.report(Duration::from_secs(count as u64)).await.and_then(|it| Ok(serde_json::to_value(it)?))
            }
            "command" => load.command(count).await.and_then(|it| Ok(serde_json::to_value(it)?)),
            "order" => load.order(count).await.and_then(|it| Ok(serde_json::to_value(it)?)),
            "drop" => {
                load.devices.iter_mut().for_each(|device| device.live = None);
                Ok(serde_json::json!({"dropped": true}))
            }
            _ => Err(anyhow::anyhow!("unknown order {line:?}")),
        };
        let answer = answer.unwrap_or_else(|error| serde_json::json!({"error": format!("{error:#}")}));
        println!("{answer}");
    }
    Ok(())
}

struct Load {
    args: ClientArgs,
    root: ServerRoot,
    endpoint: Endpoint,
    settings: ChannelSettings,
    /// Made from the wall clock, so that a later run with the same identities never repeats a position.
    epoch: i64,
    devices: Vec<Device>,
    /// The next device that `command` and `order` take: each is used once.
    fresh: usize,
}

impl Load {
    async fn prepare(args: ClientArgs) -> anyhow::Result<Self> {
        let root = ServerRoot::from_file(&args.server_root)?;
        let endpoint: Endpoint = args.agents.parse()?;
        let settings = ChannelSettings::default();
        let machine = |at: usize| Machine {
            computer_name: format!("BENCH-{at:05}"),
            serial: format!("BENCH{at:08}"),
            smbios_uuid: Some(Uuid::from_u128(0xbe7c_0000_0000_0000 + at as u128)),
            ek_hash: None,
        };
        let tokens: Vec<String> = match &args.tokens {
            Some(file) => std::fs::read_to_string(file)?.lines().map(str::to_owned).collect(),
            None => Vec::new(),
        };
        let join = futures::stream::iter(0..args.devices).map(|at| {
            let folder = args.identities.join(at.to_string());
            let (args, root, settings, token) = (&args, &root, &settings, tokens.get(at / 500));
            async move {
                if let Some(identity) = Identity::load(&folder)? {
                    return anyhow::Ok(identity);
                }
                std::fs::create_dir_all(&folder)?;
                let endpoint: Endpoint = args.enrollment.as_deref().context("--enrollment is missing")?.parse()?;
                let token = token.context("there are not enough --tokens")?;
                let machine = machine(at);
                let enrollment = enroll::Enrollment {
                    endpoint: &endpoint,
                    server_root: root,
                    settings,
                    fleet: args.fleet,
                    machine: &machine,
                };
                let identity =
                    enroll::enroll(enrollment, PendingKey::new()?, token).await.context("enrolling")?.identity;
                identity.save(&folder)?;
                Ok(identity)
            }
        });
        let identities: Vec<_> = join.buffered(32).collect().await;
        let identities = identities.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let devices = identities.into_iter().map(|identity| Device { identity, seq: 0, live: None }).collect();
        use fleetmend_proto::Clock as _;
        let epoch = SystemClock.now().timestamp();
        Ok(Self { args, root, endpoint, settings, epoch, devices, fresh: 0 })
    }

    async fn connect(&mut self, count: usize) -> anyhow::Result<Connected> {
        let started = Instant::now();
        let (root, endpoint, settings, epoch) = (&self.root, &self.endpoint, &self.settings, self.epoch);
        let absent = self.devices.iter_mut().take(count).filter(|device| device.live.is_none());
        let joins = futures::stream::iter(absent).map(|device| async move {
            let tls = root.with_identity(&device.identity)?;
            let channel = link::connect(endpoint, &tls, settings).await?;
            let hello = v1::Hello { agent_version: "bench".into(), epoch, ..Default::default() };
            let stream = channel.agent().subscribe(hello).await?.into_inner();
            device.live = Some(Live { channel, stream });
            anyhow::Ok(())
        });
        let done: Vec<_> = joins.buffer_unordered(64).collect().await;
        done.into_iter().collect::<anyhow::Result<Vec<_>>>().context("connecting")?;
        let connected = self.devices.iter().filter(|device| device.live.is_some()).count();
        Ok(Connected { connected, seconds: started.elapsed().as_secs_f64() })
    }

    async fn report(&mut self, time: Duration) -> anyhow::Result<Measured> {
        let started = Instant::now();
        let until = started + time;
        let epoch = self.epoch;
        let loads = self.devices.iter_mut().filter_map(|device| {
            let live = device.live.as_mut()?;
            let (agent, mut seq) = (live.channel.agent(), device.seq);
            let task = tokio::spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < until {
                    seq += 1;
                    let asked = Instant::now();
                    let request =
                        v1::ReportRequest { epoch, outcomes: vec![failed(seq, 0x8007_0070)], condition: None };
                    let answer = retried(|| report(agent.clone(), request.clone())).await?;
                    ensure!(answer.acked_seq == seq, "{seq} was sent, {} acknowledged", answer.acked_seq);
                    latencies.push(asked.elapsed());
                }
                anyhow::Ok((seq, latencies))
            });
            Some(async move {
                let (seq, latencies) = task.await??;
                device.seq = seq;
                anyhow::Ok(latencies)
            })
        });
        let results = futures::future::join_all(loads).await;
        let mut all = Vec::new();
        for latencies in results {
            all.extend(latencies?);
        }
        measured(&all, started.elapsed())
    }

    /// The next device that no measurement has touched.
    fn next_fresh(&mut self) -> anyhow::Result<usize> {
        let at = self.fresh;
        ensure!(self.devices.get(at).is_some_and(|device| device.live.is_some()), "no unused connected device left");
        self.fresh += 1;
        Ok(at)
    }

    async fn send_failure(&mut self, at: usize, code: u32) -> anyhow::Result<()> {
        let epoch = self.epoch;
        let device = &mut self.devices[at];
        device.seq += 1;
        let live = device.live.as_mut().context("not connected")?;
        let request = v1::ReportRequest { epoch, outcomes: vec![failed(device.seq, code)], condition: None };
        live.channel.agent().report(request).await?;
        Ok(())
    }

    async fn await_order(&mut self, at: usize) -> anyhow::Result<(Vec<u8>, i64)> {
        let live = self.devices[at].live.as_mut().context("not connected")?;
        loop {
            let next = tokio::time::timeout(Duration::from_secs(20), live.stream.next()).await;
            let directive = next.context("no order within 20 s")?.context("the stream ended")??;
            if let Some(v1::directive::Kind::Order(order)) = directive.kind {
                return order_of(&order.note);
            }
        }
    }

    /// From a failed update's report to its order on the device's stream.
    async fn order(&mut self, count: usize) -> anyhow::Result<Measured> {
        let (started, mut latencies) = (Instant::now(), Vec::new());
        for _ in 0..count {
            let at = self.next_fresh()?;
            let asked = Instant::now();
            self.send_failure(at, 0x8007_3712).await?;
            self.await_order(at).await?;
            latencies.push(asked.elapsed());
        }
        measured(&latencies, started.elapsed())
    }

    /// From the operators' API over the device to the durable result of the order.
    async fn command(&mut self, count: usize) -> anyhow::Result<Measured> {
        let api = Arc::new(Api::new(&self.args)?);
        let (started, mut latencies) = (Instant::now(), Vec::new());
        for _ in 0..count {
            let at = self.next_fresh()?;
            // A code for people: an incident is there, and nothing is ordered by itself.
            self.send_failure(at, 0x8007_0070).await?;
            tokio::time::sleep(Duration::from_millis(20)).await; // its decision is not part of the command
            let device = self.devices[at].identity.device().to_string();
            let asked = Instant::now();
            let (call, order) = tokio::join!(
                {
                    let api = api.clone();
                    async move { tokio::task::spawn_blocking(move || api.remediate(&device)).await? }
                },
                self.await_order(at)
            );
            call?;
            let (order_id, fence) = order?;
            let device = &self.devices[at];
            let mut agent = device.live.as_ref().context("not connected")?.channel.agent();
            let order_id: prost::bytes::Bytes = order_id.into();
            let begin = v1::BeginRequest { order_id: order_id.clone(), fence, epoch: self.epoch, seq: device.seq };
            agent.begin(begin).await?;
            let phase = phase_to_wire(OrderPhase::Succeeded);
            let update = v1::UpdateOrderRequest { order_id, fence, phase, ..Default::default() };
            let answer = agent.update_order(update).await?.into_inner();
            ensure!(answer.current, "the result was not current");
            latencies.push(asked.elapsed());
        }
        measured(&latencies, started.elapsed())
    }
}

/// The operators' API over one kept connection.
struct Api {
    agent: ureq::Agent,
    url: String,
    token: String,
}

impl Api {
    fn new(args: &ClientArgs) -> anyhow::Result<Self> {
        let pem = std::fs::read(&args.server_root)?;
        let root = ureq::tls::Certificate::from_pem(&pem)?;
        let tls = ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::new_with_certs(&[root])).build();
        let agent = ureq::Agent::config_builder().tls_config(tls).build().new_agent();
        let url = args.api.clone().context("--api is missing")?;
        let token = args.api_token.clone().context("--api-token is missing")?;
        Ok(Self { agent, url, token })
    }

    fn remediate(&self, device: &str) -> anyhow::Result<()> {
        let url = format!("{}/api/v1/devices/{device}/remediate", self.url);
        self.agent
            .post(&url)
            .header("authorization", &format!("Bearer {}", self.token))
            .send_json(serde_json::json!({"tier": 1, "now": true}))
            .context("asking for a remedy")?;
        Ok(())
    }
}

/// A failed update, always the same one: the first report opens an incident, the others join it.
fn failed(seq: i64, code: u32) -> v1::Outcome {
    use fleetmend_proto::Clock as _;
    v1::Outcome {
        seq,
        update: Some(v1::UpdateRef {
            update_id: prost::bytes::Bytes::copy_from_slice(Uuid::from_u128(0x0599_9991).as_bytes()),
            revision: 200,
            kb: 5_999_991,
            title: "2026-01 Cumulative Update for Windows 11 Version 24H2 for x64-based Systems (KB5999991)".into(),
            kind: v1::UpdateKind::Quality.into(),
            supersedes: Vec::new(),
        }),
        operation: v1::Operation::Install.into(),
        result: v1::Result::Failed.into(),
        code,
        raw_code: code,
        occurred_at_us: SystemClock.now().timestamp_micros(),
        source: v1::Source::EventLog.into(),
    }
}

/// Order id and fence as the note's lines say them. The load generator trusts its controller: it checks no signature.
fn order_of(note: &[u8]) -> anyhow::Result<(Vec<u8>, i64)> {
    let text = std::str::from_utf8(note)?;
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"));
    let order: Uuid = field("order ")?.parse()?;
    Ok((order.as_bytes().to_vec(), field("fence ")?.parse()?))
}

async fn report(
    mut agent: AgentServiceClient<Channel>,
    request: v1::ReportRequest,
) -> Result<tonic::Response<v1::ReportResponse>, Status> {
    agent.report(request).await
}

/// Sends again what the controller was too busy for: as devices do.
async fn retried<T, F, Fut>(mut call: F) -> Result<T, Status>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<tonic::Response<T>, Status>>,
{
    loop {
        match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if status.code() == Code::ResourceExhausted => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(status) => return Err(status),
        }
    }
}

#[allow(clippy::cast_precision_loss)] // rates and milliseconds
fn measured(latencies: &[Duration], took: Duration) -> anyhow::Result<Measured> {
    let mut histogram = Histogram::<u64>::new(3)?;
    for latency in latencies {
        histogram.record(u64::try_from(latency.as_micros())?.max(1))?;
    }
    let ms = |us: u64| us as f64 / 1e3;
    Ok(Measured {
        count: histogram.len(),
        per_second: histogram.len() as f64 / took.as_secs_f64(),
        p50_ms: ms(histogram.value_at_quantile(0.5)),
        p99_ms: ms(histogram.value_at_quantile(0.99)),
        mean_ms: histogram.mean() / 1e3,
    })
}
