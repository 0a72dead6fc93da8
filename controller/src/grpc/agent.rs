//! `AgentService`: one short method an RPC.

use std::sync::Arc;

use chrono::TimeDelta;
use fleetmend_proto::{
    Clock, Fence, FleetId, OrderId, Position,
    clock::wall_now,
    convert::{
        FieldError, cleaned_text, optional_uuid, phase_from_wire, refusal_from_wire, step_from_wire, uuid_from_wire,
    },
    v1::{self, agent_service_server::AgentService},
};
use tonic::{Request, Response, Status};

use super::{
    Gate, Ingest, IngestClosed, LEASE_SECONDS, caller, caller_even_expired,
    directives::Directives,
    report,
    status::{busy, from_store},
};
use crate::{
    nudge::Nudges,
    pki::Issuer,
    reconcile::renew,
    store::{Begin, Hello, OrderProgress, Renewal, Renewed, Store, StoreError},
    streams::Streams,
};

const MAX_STEPS: usize = 64;
const MAX_DETAIL: usize = 1024;

/// Everything the agents' calls need; one a process.
pub struct AgentApi {
    pub fleet: FleetId,
    /// Names this process in session rows.
    pub replica: String,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub issuer: Arc<Issuer>,
    pub gate: Gate,
    pub ingest: Ingest,
    pub streams: Streams,
    pub nudges: Nudges,
}

#[tonic::async_trait]
impl AgentService for AgentApi {
    type SubscribeStream = Directives;

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let (device, presented_key_hash) = caller_even_expired(&request)?;
        self.gate.admit(device).await?;
        let request = request.into_inner();
        let issued = self
            .issuer
            .issue(&request.csr_der, self.fleet, device, wall_now())
            .map_err(|error| Status::from(FieldError::new("csr_der", error.to_string())))?;
        let renewal = Renewal {
            device,
            presented_generation: request.generation,
            presented_key_hash,
            key_hash: issued.key_hash,
            not_after: issued.not_after,
            now: self.clock.now(),
        };
        match self.store.device_renew(renewal).await.map_err(|error| from_store("renewal", &error))? {
            Renewed::Renewed { generation } => {
                let certificate_chain = issued.chain.into_iter().map(Into::into).collect();
                Ok(Response::new(v1::RenewResponse { certificate_chain, generation }))
            }
            Renewed::CloneSuspected => {
                tracing::warn!(device_id = %device, "two machines use one certificate: device quarantined");
                Err(Status::permission_denied(
                    "another machine has renewed this certificate: the device is quarantined until a person approves it",
                ))
            }
        }
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        let device = caller(&request)?;
        self.gate.admit(device).await?;
        let checked = report::check(device, request.into_inner(), self.clock.now())?;
        for rejection in &checked.rejections {
            tracing::debug!(device_id = %device, seq = rejection.seq, field = rejection.field, "outcome rejected");
        }
        let taken = self.ingest.submit(checked.report).await.map_err(|error| match error {
            IngestClosed::Full => busy("reports are queueing for the database"),
            IngestClosed::ShuttingDown => Status::unavailable("the controller is shutting down"),
            IngestClosed::Store(error) => from_store("report", &error),
        })?;
        Ok(Response::new(v1::ReportResponse {
            acked_seq: if taken.recorded.new_epoch { 0 } else { checked.last_seq },
            rejections: [checked.rejections, taken.rejections].concat(),
            new_epoch: taken.recorded.new_epoch,
        }))
    }

    async fn subscribe(&self, request: Request<v1::Hello>) -> Result<Response<Directives>, Status> {
        let device = caller(&request)?;
        self.gate.admit(device).await?;
        let hello = request.into_inner();
        let hello_of = Hello {
            device,
            replica: &self.replica,
            max_fence: Fence(hello.max_fence),
            instance: optional_uuid("instance", &hello.instance)?,
            now: self.clock.now(),
        };
        let opened = self.store.session_open(hello_of).await.map_err(|error| from_store("subscribe", &error))?;
        if opened.clone_suspected {
            tracing::warn!(device_id = %device, "two machines stream with one certificate: device quarantined");
        }
        let directives = Directives::open(device, opened.stream_epoch, self.streams.clone(), self.store.clone());
        self.nudges.dispatch();
        if !hello.running_order.is_empty()
            && let Err(error) = renew::at_return(&self.store, &self.streams, device).await
        {
            // The renewing loop tells it in its own time.
            tracing::warn!(device_id = %device, error = &error as &dyn std::error::Error, "lease not renewed at once");
        }
        Ok(Response::new(directives))
    }

    async fn begin(&self, request: Request<v1::BeginRequest>) -> Result<Response<v1::BeginResponse>, Status> {
        let device = caller(&request)?;
        self.gate.admit(device).await?;
        let request = request.into_inner();
        if request.epoch < 0 || request.seq < 0 {
            return Err(FieldError::new("epoch", "position must not be negative").into());
        }
        let begin = Begin {
            device,
            order: OrderId(uuid_from_wire("order_id", &request.order_id)?),
            fence: Fence(request.fence),
            position: Position { epoch: request.epoch, seq: request.seq },
            now: self.clock.now(),
            now_wall: wall_now(),
            lease_until: wall_now() + TimeDelta::seconds(LEASE_SECONDS.into()),
        };
        match self.store.order_begin(begin).await {
            Ok(()) => Ok(Response::new(v1::BeginResponse { lease_seconds: LEASE_SECONDS })),
            Err(error @ (StoreError::Conflict { .. } | StoreError::NotFound { .. })) => {
                Err(Status::failed_precondition(error.to_string()))
            }
            Err(error) => Err(from_store("begin", &error)),
        }
    }

    async fn update_order(
        &self,
        request: Request<v1::UpdateOrderRequest>,
    ) -> Result<Response<v1::UpdateOrderResponse>, Status> {
        let device = caller(&request)?;
        self.gate.admit(device).await?;
        let request = request.into_inner();
        if request.steps.len() > MAX_STEPS {
            return Err(FieldError::new("steps", format!("more than {MAX_STEPS} entries")).into());
        }
        let progress = OrderProgress {
            device,
            order: OrderId(uuid_from_wire("order_id", &request.order_id)?),
            fence: Fence(request.fence),
            phase: phase_from_wire(request.phase)?,
            steps: request.steps.into_iter().map(step_from_wire).collect::<Result<_, _>>()?,
            detail: cleaned_text(&request.detail, MAX_DETAIL),
            refusal: refusal_from_wire(request.refusal)?,
            now: self.clock.now(),
        };
        let is_final = progress.phase.is_final();
        let current = match self.store.order_update(progress).await {
            Ok(current) => current,
            // An order this controller never made (or forgot): nothing the agent could do about it.
            Err(StoreError::NotFound { .. }) => false,
            Err(error) => return Err(from_store("order update", &error)),
        };
        if is_final {
            self.nudges.verify();
            self.nudges.decide();
        }
        Ok(Response::new(v1::UpdateOrderResponse { current }))
    }
}
