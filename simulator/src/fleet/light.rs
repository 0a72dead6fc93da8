//! Light devices: the real protocol over real TLS and nothing else. No disk, no model of a PC; they report what they are
//! told to and answer orders from a script. For load, where ten thousand have to fit into a process.

use std::sync::Arc;

use fleetmend_agent::{
    enroll::{self, EnrollError, Enrollment},
    identity::{Identity, PendingKey},
    link::{self, Channel, ChannelSettings, Endpoint, LinkError, ServerRoot},
    platform::Machine,
};
use fleetmend_proto::{
    FleetId, Outcome,
    convert::{outcome_to_wire, phase_to_wire, uuid_to_wire},
    order::{NoteError, OrderPhase, OrderText, OrderVerifier, SignedOrder},
    v1,
};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::pc::dice::Dice;

/// What all light devices of a process share.
#[derive(Clone, Debug)]
pub struct LightSettings {
    pub enrollment: Endpoint,
    pub agents: Endpoint,
    pub server_root: ServerRoot,
    pub fleet: FleetId,
    pub order_keys: Vec<OrderVerifier>,
    pub channel: ChannelSettings,
    pub seed: u64,
}

/// Why a light device stopped.
#[derive(Debug, thiserror::Error)]
pub enum LightError {
    #[error("a light device could not enrol")]
    Enroll(#[source] EnrollError),
    #[error("a light device lost the controller")]
    Link(#[source] LinkError),
    #[error("a light device's certificate cannot be used")]
    Certificate(#[source] rustls::Error),
    #[error("a light device got an order that it cannot verify")]
    Order(#[source] NoteError),
    #[error("the controller closed a light device's stream")]
    Closed,
}

/// A device of the load.
#[derive(Debug)]
pub struct LightDevice {
    settings: Arc<LightSettings>,
    identity: Identity,
    channel: Option<Channel>,
    /// Number of the newest outcome; the epoch is always 1.
    seq: i64,
    max_fence: i64,
}

/// A position in the only epoch of a light device.
const EPOCH: i64 = 1;

impl LightDevice {
    /// Enrols device `index` of the seed.
    ///
    /// # Errors
    /// [`LightError::Enroll`].
    pub async fn enroll(settings: Arc<LightSettings>, index: u32, token: &str) -> Result<Self, LightError> {
        let dice = Dice::of_device(settings.seed, index);
        let machine = Machine {
            computer_name: format!("LIGHT-{index:05}"),
            serial: format!("LIGHT{:08X}", dice.between("serial", 0, 1 << 32)),
            smbios_uuid: Some(dice.uuid("smbios")),
            ek_hash: None,
        };
        let LightSettings { enrollment, server_root, fleet, channel, .. } = &*settings;
        let what =
            Enrollment { endpoint: enrollment, server_root, settings: channel, fleet: *fleet, machine: &machine };
        let key = PendingKey::new().map_err(|error| LightError::Enroll(EnrollError::Identity(error)))?;
        let enrolled = enroll::enroll(what, key, token).await.map_err(LightError::Enroll)?;
        Ok(Self { settings, identity: enrolled.identity, channel: None, seq: 0, max_fence: 0 })
    }

    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The connection, made where there is none.
    ///
    /// # Errors
    /// [`LightError::Link`] where the controller cannot be reached.
    pub async fn connect(&mut self) -> Result<Channel, LightError> {
        if let Some(channel) = self.channel.as_ref().filter(|channel| !channel.is_closed()) {
            return Ok(channel.clone());
        }
        let tls = self.settings.server_root.with_identity(&self.identity).map_err(LightError::Certificate)?;
        let channel =
            link::connect(&self.settings.agents, &tls, &self.settings.channel).await.map_err(LightError::Link)?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    /// Opens the stream of directives.
    ///
    /// # Errors
    /// [`LightError::Link`].
    pub async fn subscribe(&mut self) -> Result<Streaming<v1::Directive>, LightError> {
        let channel = self.connect().await?;
        let hello = v1::Hello {
            agent_version: fleetmend_agent::VERSION.to_owned(),
            max_fence: self.max_fence,
            epoch: EPOCH,
            acked_seq: self.seq,
            running_order: uuid_to_wire(None),
            ..v1::Hello::default()
        };
        let limit = self.settings.channel.call_timeout;
        let mut client = channel.agent();
        link::within(limit, &channel, client.subscribe(hello)).await.map_err(LightError::Link)
    }

    /// Reports one outcome and waits until it is durable.
    ///
    /// # Errors
    /// [`LightError::Link`]; the outcome may have been stored then.
    pub async fn report(&mut self, outcome: &Outcome) -> Result<v1::ReportResponse, LightError> {
        let channel = self.connect().await?;
        let request =
            v1::ReportRequest { epoch: EPOCH, outcomes: vec![outcome_to_wire(self.seq + 1, outcome)], condition: None };
        let limit = self.settings.channel.call_timeout;
        let mut client = channel.agent();
        let answer = link::within(limit, &channel, client.report(request)).await.map_err(LightError::Link)?;
        self.seq += 1;
        Ok(answer)
    }

    /// Takes directives until `stop`: each order is verified, begun, and ended as `script` says.
    ///
    /// # Errors
    /// [`LightError`] when the stream ends or an order cannot be verified.
    pub async fn obey(
        &mut self,
        script: impl Fn(&OrderText) -> OrderPhase,
        stop: &CancellationToken,
    ) -> Result<u64, LightError> {
        let mut stream = self.subscribe().await?;
        let mut orders = 0;
        loop {
            let directive = tokio::select! {
                () = stop.cancelled() => return Ok(orders),
                directive = stream.message() => directive.map_err(|status| LightError::Link(status.into()))?,
            };
            match directive.ok_or(LightError::Closed)?.kind {
                Some(v1::directive::Kind::Order(order)) => {
                    let note = SignedOrder(order.note.to_vec());
                    let text = note.open(&self.settings.order_keys).map_err(LightError::Order)?;
                    let phase = script(&text);
                    self.answer(&text, phase).await?;
                    orders += 1;
                }
                // What is cancelled has ended here already, and nothing is kept that could be refreshed.
                Some(
                    v1::directive::Kind::Cancel(_)
                    | v1::directive::Kind::Lease(_)
                    | v1::directive::Kind::Drain(_)
                    | v1::directive::Kind::Refresh(_),
                )
                | None => {}
            }
        }
    }

    async fn answer(&mut self, text: &OrderText, phase: OrderPhase) -> Result<(), LightError> {
        let channel = self.connect().await?;
        let limit = self.settings.channel.call_timeout;
        let order_id = uuid_to_wire(Some(text.order.0));
        self.max_fence = self.max_fence.max(text.fence.0);
        let begin = v1::BeginRequest { order_id: order_id.clone(), fence: text.fence.0, epoch: EPOCH, seq: self.seq };
        let mut client = channel.agent();
        link::within(limit, &channel, client.begin(begin)).await.map_err(LightError::Link)?;
        let update = v1::UpdateOrderRequest {
            order_id,
            fence: text.fence.0,
            phase: phase_to_wire(phase),
            detail: "scripted".to_owned(),
            ..v1::UpdateOrderRequest::default()
        };
        let mut client = channel.agent();
        link::within(limit, &channel, client.update_order(update)).await.map_err(LightError::Link)?;
        Ok(())
    }
}
