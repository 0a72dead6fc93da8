-- Ids are UUIDs, times timestamptz (microseconds), numbers bigint, JSON text. Column for column the same as
-- migrations/sqlite/0001_initial.sql. Rows that change often leave room in their page for their next version (fillfactor).

CREATE TABLE fleet (
    only_row        INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    fleet_id        UUID NOT NULL,
    db_epoch        UUID NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL
);

-- Append-only: who changed what, written in the transaction that changed it.
CREATE TABLE events (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              TIMESTAMPTZ NOT NULL,
    actor_kind      TEXT NOT NULL,
    actor           TEXT NOT NULL,
    kind            TEXT NOT NULL,
    device_id       UUID,
    incident_id     UUID,
    order_id        UUID,
    data            TEXT NOT NULL
);
CREATE INDEX events_of_incident ON events (incident_id, id) WHERE incident_id IS NOT NULL;

CREATE TABLE enroll_tokens (
    id              UUID NOT NULL PRIMARY KEY,
    hash            BYTEA NOT NULL UNIQUE,
    uses            BIGINT NOT NULL,
    uses_left       BIGINT NOT NULL CHECK (uses_left >= 0),
    expires_at      TIMESTAMPTZ NOT NULL,
    ring            TEXT NOT NULL,
    preapproved     BOOLEAN NOT NULL,
    note            TEXT NOT NULL,
    created_by      TEXT NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    revoked_at      TIMESTAMPTZ
);

-- Serial numbers whose devices need no approval.
CREATE TABLE expected_serials (
    serial          TEXT NOT NULL PRIMARY KEY,
    added_by        TEXT NOT NULL,
    added_at        TIMESTAMPTZ NOT NULL
);

-- key_hash: SHA-256 of the certificate's public key; former_key_hash: of the one before it. enroll_token: what let it in.
CREATE TABLE devices (
    id                  UUID NOT NULL PRIMARY KEY,
    name                TEXT COLLATE "C" NOT NULL,
    serial              TEXT NOT NULL,
    smbios_uuid         UUID,
    ek_hash             TEXT,
    state               TEXT NOT NULL,
    state_reason        TEXT,
    ring                TEXT NOT NULL,
    generation          BIGINT NOT NULL,
    key_hash            BYTEA NOT NULL,
    former_key_hash     BYTEA,
    enroll_token        UUID,
    cert_not_after      TIMESTAMPTZ NOT NULL,
    fence               BIGINT NOT NULL,
    excluded            BOOLEAN NOT NULL,
    agent_version       TEXT NOT NULL,
    enrolled_at         TIMESTAMPTZ NOT NULL,
    last_seen_at        TIMESTAMPTZ,
    product_type        TEXT NOT NULL,
    role                TEXT NOT NULL,
    authority           TEXT NOT NULL,
    reboot_pending      BOOLEAN NOT NULL,
    utc_offset_minutes  BIGINT NOT NULL,
    os_build            BIGINT NOT NULL,
    ubr                 BIGINT NOT NULL,
    architecture        TEXT NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX devices_by_name ON devices (name, id);
CREATE INDEX devices_by_serial ON devices (serial);
CREATE INDEX devices_by_smbios ON devices (smbios_uuid) WHERE smbios_uuid IS NOT NULL;
CREATE INDEX devices_banned ON devices (id) WHERE state = 'banned';

-- History: one row each time a device described itself.
CREATE TABLE conditions (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id       UUID NOT NULL,
    collected_at    TIMESTAMPTZ NOT NULL,
    received_at     TIMESTAMPTZ NOT NULL,
    condition       TEXT NOT NULL
);
CREATE INDEX conditions_of_device ON conditions (device_id, id);

-- Which replica holds a device's stream. stream_epoch grows with each new stream: an older one is closed.
-- instances: JSON, the agent processes that were seen, the newest last; one that returns belongs to a second machine.
CREATE TABLE sessions (
    device_id       UUID NOT NULL PRIMARY KEY,
    replica         TEXT NOT NULL,
    stream_epoch    BIGINT NOT NULL,
    instances       TEXT NOT NULL,
    opened_at       TIMESTAMPTZ NOT NULL,
    closed_at       TIMESTAMPTZ
);
CREATE INDEX sessions_of_replica ON sessions (replica) WHERE closed_at IS NULL;

-- What was acknowledged: tells a repeated outcome from a new one, and finds the outcomes of a device or incident.
-- installed_at: of successes, in Windows' own time, but not after they were received.
CREATE TABLE positions (
    device_id       UUID NOT NULL,
    epoch           BIGINT NOT NULL,
    seq             BIGINT NOT NULL,
    payload_hash    BIGINT NOT NULL,
    outcome_id      UUID NOT NULL,
    incident_id     UUID,
    installed_at    TIMESTAMPTZ,
    PRIMARY KEY (device_id, epoch, seq)
);
CREATE INDEX positions_installed ON positions (device_id, installed_at) WHERE installed_at IS NOT NULL;

-- Ids grow with time: new rows stand together at the end.
CREATE TABLE outcomes (
    id              UUID NOT NULL PRIMARY KEY,
    device_id       UUID NOT NULL,
    epoch           BIGINT NOT NULL,
    seq             BIGINT NOT NULL,
    incident_id     UUID,
    operation       TEXT NOT NULL,
    result          TEXT NOT NULL,
    code            TEXT NOT NULL,
    raw_code        TEXT NOT NULL,
    source          TEXT NOT NULL,
    occurred_at     TIMESTAMPTZ NOT NULL,
    received_at     TIMESTAMPTZ NOT NULL,
    update_ref      TEXT NOT NULL
);

-- evidence: the newest outcome, by position, that says something of it; one outcome may do so for several incidents.
CREATE TABLE incidents (
    id              UUID NOT NULL PRIMARY KEY,
    device_id       UUID NOT NULL,
    update_id       UUID,
    revision        BIGINT NOT NULL,
    kb              TEXT,
    title           TEXT NOT NULL,
    kind            TEXT NOT NULL,
    update_ref      TEXT NOT NULL,
    state           TEXT NOT NULL,
    tier            BIGINT,
    reason          TEXT,
    code            TEXT NOT NULL,
    raw_code        TEXT NOT NULL,
    opened_at       TIMESTAMPTZ NOT NULL,
    last_failed_at  TIMESTAMPTZ NOT NULL,
    failures        BIGINT NOT NULL,
    evidence_id     UUID NOT NULL,
    evidence_epoch  BIGINT NOT NULL,
    evidence_seq    BIGINT NOT NULL,
    due_at          TIMESTAMPTZ,
    deadline_at     TIMESTAMPTZ,
    order_id        UUID,
    fixed_by        BIGINT,
    closed_at       TIMESTAMPTZ,
    generation      BIGINT NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX incidents_open ON incidents (device_id) WHERE closed_at IS NULL;
CREATE INDEX incidents_of_device ON incidents (device_id, id);
CREATE INDEX incidents_by_state ON incidents (state, id);
CREATE INDEX incidents_by_code ON incidents (code, id);
CREATE INDEX incidents_to_decide ON incidents (due_at) WHERE due_at IS NOT NULL AND state <> 'verifying';
CREATE INDEX incidents_to_verify ON incidents (due_at) WHERE due_at IS NOT NULL AND state = 'verifying';

CREATE TABLE decisions (
    id                  UUID NOT NULL PRIMARY KEY,
    incident_id         UUID NOT NULL,
    device_id           UUID NOT NULL,
    at                  TIMESTAMPTZ NOT NULL,
    rule                TEXT NOT NULL,
    reason              TEXT NOT NULL,
    next                TEXT NOT NULL,
    inputs              TEXT NOT NULL,
    policy_version      BIGINT NOT NULL,
    catalogue_version   BIGINT NOT NULL,
    order_id            UUID
);
CREATE INDEX decisions_of_incident ON decisions (incident_id, id);

CREATE TABLE orders (
    id              UUID NOT NULL PRIMARY KEY,
    device_id       UUID NOT NULL,
    incident_id     UUID NOT NULL,
    action_name     TEXT NOT NULL,
    action          TEXT NOT NULL,
    tier            BIGINT,
    manual          BOOLEAN NOT NULL,
    state           TEXT NOT NULL,
    fence           BIGINT,
    lease_until     TIMESTAMPTZ,
    note            BYTEA,
    created_at      TIMESTAMPTZ NOT NULL,
    expires_at      TIMESTAMPTZ NOT NULL,
    run_seconds     BIGINT NOT NULL,
    leased_at       TIMESTAMPTZ,
    begun_at        TIMESTAMPTZ,
    begin_epoch     BIGINT,
    begin_seq       BIGINT,
    run_deadline_at TIMESTAMPTZ,
    ended_at        TIMESTAMPTZ,
    detail          TEXT NOT NULL,
    refusal         TEXT,
    verdict         TEXT,
    generation      BIGINT NOT NULL
) WITH (fillfactor = 50);
-- INVARIANT: at most one order holds a device. The database says no, whatever the code does.
CREATE UNIQUE INDEX one_active ON orders (device_id)
    WHERE state IN ('queued', 'leased', 'running', 'awaiting_reboot', 'awaiting_return');
CREATE INDEX orders_of_incident ON orders (incident_id, id);
CREATE INDEX orders_of_device ON orders (device_id, id);
CREATE INDEX orders_by_state ON orders (state, id);
CREATE INDEX orders_queued ON orders (expires_at) WHERE state = 'queued';
CREATE INDEX orders_leased ON orders (lease_until) WHERE state = 'leased';
CREATE INDEX orders_running ON orders (run_deadline_at)
    WHERE state IN ('running', 'awaiting_reboot', 'awaiting_return');

-- The newest state of each step, as the agent reported it.
CREATE TABLE order_steps (
    order_id        UUID NOT NULL,
    step            BIGINT NOT NULL,
    name            TEXT NOT NULL,
    state           TEXT NOT NULL,
    detail          TEXT NOT NULL,
    at              TIMESTAMPTZ NOT NULL,
    findings        TEXT NOT NULL,
    PRIMARY KEY (order_id, step)
);

-- What was said about an order by somebody who no longer holds it.
CREATE TABLE order_evidence (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id        UUID NOT NULL,
    device_id       UUID NOT NULL,
    fence           BIGINT NOT NULL,
    phase           TEXT NOT NULL,
    data            TEXT NOT NULL,
    at              TIMESTAMPTZ NOT NULL
);
CREATE INDEX order_evidence_of_order ON order_evidence (order_id, id);

CREATE TABLE verifications (
    id              UUID NOT NULL PRIMARY KEY,
    incident_id     UUID NOT NULL,
    order_id        UUID,
    verdict         TEXT NOT NULL,
    epoch           BIGINT,
    seq             BIGINT,
    at              TIMESTAMPTZ NOT NULL
);
CREATE INDEX verifications_of_incident ON verifications (incident_id, id);

-- Remedies that people asked for by hand; answered by the decision that acted on them.
CREATE TABLE manual_requests (
    id              UUID NOT NULL PRIMARY KEY,
    incident_id     UUID NOT NULL,
    device_id       UUID NOT NULL,
    tier            BIGINT,
    skip_waits      BOOLEAN NOT NULL,
    requested_by    TEXT NOT NULL,
    requested_at    TIMESTAMPTZ NOT NULL,
    decision_id     UUID
);
CREATE INDEX manual_requests_unanswered ON manual_requests (incident_id, id) WHERE decision_id IS NULL;

CREATE TABLE api_tokens (
    id              UUID NOT NULL PRIMARY KEY,
    hash            BYTEA NOT NULL UNIQUE,
    name            TEXT NOT NULL,
    role            TEXT NOT NULL,
    expires_at      TIMESTAMPTZ NOT NULL,
    created_by      TEXT NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    revoked_at      TIMESTAMPTZ
);
