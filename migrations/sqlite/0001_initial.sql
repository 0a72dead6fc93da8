-- Ids are UUIDs as 16-byte blobs, times RFC 3339 text in UTC with at most microseconds (their text order is their
-- order in time), booleans 0/1, JSON text. Column for column the same as migrations/postgres/0001_initial.sql.

CREATE TABLE fleet (
    only_row        INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    fleet_id        BLOB NOT NULL,
    db_epoch        BLOB NOT NULL,
    created_at      TEXT NOT NULL
) STRICT;

-- Append-only: who changed what, written in the transaction that changed it.
CREATE TABLE events (
    id              INTEGER PRIMARY KEY,
    at              TEXT NOT NULL,
    actor_kind      TEXT NOT NULL,
    actor           TEXT NOT NULL,
    kind            TEXT NOT NULL,
    device_id       BLOB,
    incident_id     BLOB,
    order_id        BLOB,
    data            TEXT NOT NULL
) STRICT;
CREATE INDEX events_of_incident ON events (incident_id, id) WHERE incident_id IS NOT NULL;

CREATE TABLE enroll_tokens (
    id              BLOB NOT NULL PRIMARY KEY,
    hash            BLOB NOT NULL UNIQUE,
    uses            INTEGER NOT NULL,
    uses_left       INTEGER NOT NULL CHECK (uses_left >= 0),
    expires_at      TEXT NOT NULL,
    ring            TEXT NOT NULL,
    preapproved     INTEGER NOT NULL,
    note            TEXT NOT NULL,
    created_by      TEXT NOT NULL,
    created_at      TEXT NOT NULL,
    revoked_at      TEXT
) STRICT;

-- Serial numbers whose devices need no approval.
CREATE TABLE expected_serials (
    serial          TEXT NOT NULL PRIMARY KEY,
    added_by        TEXT NOT NULL,
    added_at        TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- key_hash: SHA-256 of the certificate's public key; former_key_hash: of the one before it. enroll_token: what let it in.
CREATE TABLE devices (
    id                  BLOB NOT NULL PRIMARY KEY,
    name                TEXT NOT NULL,
    serial              TEXT NOT NULL,
    smbios_uuid         BLOB,
    ek_hash             TEXT,
    state               TEXT NOT NULL,
    state_reason        TEXT,
    ring                TEXT NOT NULL,
    generation          INTEGER NOT NULL,
    key_hash            BLOB NOT NULL,
    former_key_hash     BLOB,
    enroll_token        BLOB,
    cert_not_after      TEXT NOT NULL,
    fence               INTEGER NOT NULL,
    excluded            INTEGER NOT NULL,
    agent_version       TEXT NOT NULL,
    enrolled_at         TEXT NOT NULL,
    last_seen_at        TEXT,
    product_type        TEXT NOT NULL,
    role                TEXT NOT NULL,
    authority           TEXT NOT NULL,
    reboot_pending      INTEGER NOT NULL,
    utc_offset_minutes  INTEGER NOT NULL,
    os_build            INTEGER NOT NULL,
    ubr                 INTEGER NOT NULL,
    architecture        TEXT NOT NULL
) STRICT;
CREATE INDEX devices_by_name ON devices (name, id);
CREATE INDEX devices_by_serial ON devices (serial);
CREATE INDEX devices_by_smbios ON devices (smbios_uuid) WHERE smbios_uuid IS NOT NULL;
CREATE INDEX devices_banned ON devices (id) WHERE state = 'banned';

-- History: one row each time a device described itself.
CREATE TABLE conditions (
    id              INTEGER PRIMARY KEY,
    device_id       BLOB NOT NULL,
    collected_at    TEXT NOT NULL,
    received_at     TEXT NOT NULL,
    condition       TEXT NOT NULL
) STRICT;
CREATE INDEX conditions_of_device ON conditions (device_id, id);

-- Which replica holds a device's stream. stream_epoch grows with each new stream: an older one is closed.
-- instances: JSON, the agent processes that were seen, the newest last; one that returns belongs to a second machine.
CREATE TABLE sessions (
    device_id       BLOB NOT NULL PRIMARY KEY,
    replica         TEXT NOT NULL,
    stream_epoch    INTEGER NOT NULL,
    instances       TEXT NOT NULL,
    opened_at       TEXT NOT NULL,
    closed_at       TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_of_replica ON sessions (replica) WHERE closed_at IS NULL;

-- What was acknowledged: tells a repeated outcome from a new one, and finds the outcomes of a device or incident.
-- installed_at: of successes, in Windows' own time, but not after they were received.
CREATE TABLE positions (
    device_id       BLOB NOT NULL,
    epoch           INTEGER NOT NULL,
    seq             INTEGER NOT NULL,
    payload_hash    INTEGER NOT NULL,
    outcome_id      BLOB NOT NULL,
    incident_id     BLOB,
    installed_at    TEXT,
    PRIMARY KEY (device_id, epoch, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX positions_installed ON positions (device_id, installed_at) WHERE installed_at IS NOT NULL;

-- Ids grow with time: new rows stand together at the end.
CREATE TABLE outcomes (
    id              BLOB NOT NULL PRIMARY KEY,
    device_id       BLOB NOT NULL,
    epoch           INTEGER NOT NULL,
    seq             INTEGER NOT NULL,
    incident_id     BLOB,
    operation       TEXT NOT NULL,
    result          TEXT NOT NULL,
    code            TEXT NOT NULL,
    raw_code        TEXT NOT NULL,
    source          TEXT NOT NULL,
    occurred_at     TEXT NOT NULL,
    received_at     TEXT NOT NULL,
    update_ref      TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- evidence: the newest outcome, by position, that says something of it; one outcome may do so for several incidents.
CREATE TABLE incidents (
    id              BLOB NOT NULL PRIMARY KEY,
    device_id       BLOB NOT NULL,
    update_id       BLOB,
    revision        INTEGER NOT NULL,
    kb              TEXT,
    title           TEXT NOT NULL,
    kind            TEXT NOT NULL,
    update_ref      TEXT NOT NULL,
    state           TEXT NOT NULL,
    tier            INTEGER,
    reason          TEXT,
    code            TEXT NOT NULL,
    raw_code        TEXT NOT NULL,
    opened_at       TEXT NOT NULL,
    last_failed_at  TEXT NOT NULL,
    failures        INTEGER NOT NULL,
    evidence_id     BLOB NOT NULL,
    evidence_epoch  INTEGER NOT NULL,
    evidence_seq    INTEGER NOT NULL,
    due_at          TEXT,
    deadline_at     TEXT,
    order_id        BLOB,
    fixed_by        INTEGER,
    closed_at       TEXT,
    generation      INTEGER NOT NULL
) STRICT;
CREATE INDEX incidents_open ON incidents (device_id) WHERE closed_at IS NULL;
CREATE INDEX incidents_of_device ON incidents (device_id, id);
CREATE INDEX incidents_by_state ON incidents (state, id);
CREATE INDEX incidents_by_code ON incidents (code, id);
CREATE INDEX incidents_to_decide ON incidents (due_at) WHERE due_at IS NOT NULL AND state <> 'verifying';
CREATE INDEX incidents_to_verify ON incidents (due_at) WHERE due_at IS NOT NULL AND state = 'verifying';

CREATE TABLE decisions (
    id                  BLOB NOT NULL PRIMARY KEY,
    incident_id         BLOB NOT NULL,
    device_id           BLOB NOT NULL,
    at                  TEXT NOT NULL,
    rule                TEXT NOT NULL,
    reason              TEXT NOT NULL,
    next                TEXT NOT NULL,
    inputs              TEXT NOT NULL,
    policy_version      INTEGER NOT NULL,
    catalogue_version   INTEGER NOT NULL,
    order_id            BLOB
) STRICT;
CREATE INDEX decisions_of_incident ON decisions (incident_id, id);

CREATE TABLE orders (
    id              BLOB NOT NULL PRIMARY KEY,
    device_id       BLOB NOT NULL,
    incident_id     BLOB NOT NULL,
    action_name     TEXT NOT NULL,
    action          TEXT NOT NULL,
    tier            INTEGER,
    manual          INTEGER NOT NULL,
    state           TEXT NOT NULL,
    fence           INTEGER,
    lease_until     TEXT,
    note            BLOB,
    created_at      TEXT NOT NULL,
    expires_at      TEXT NOT NULL,
    run_seconds     INTEGER NOT NULL,
    leased_at       TEXT,
    begun_at        TEXT,
    begin_epoch     INTEGER,
    begin_seq       INTEGER,
    run_deadline_at TEXT,
    ended_at        TEXT,
    detail          TEXT NOT NULL,
    refusal         TEXT,
    verdict         TEXT,
    generation      INTEGER NOT NULL
) STRICT;
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
    order_id        BLOB NOT NULL,
    step            INTEGER NOT NULL,
    name            TEXT NOT NULL,
    state           TEXT NOT NULL,
    detail          TEXT NOT NULL,
    at              TEXT NOT NULL,
    findings        TEXT NOT NULL,
    PRIMARY KEY (order_id, step)
) STRICT, WITHOUT ROWID;

-- What was said about an order by somebody who no longer holds it.
CREATE TABLE order_evidence (
    id              INTEGER PRIMARY KEY,
    order_id        BLOB NOT NULL,
    device_id       BLOB NOT NULL,
    fence           INTEGER NOT NULL,
    phase           TEXT NOT NULL,
    data            TEXT NOT NULL,
    at              TEXT NOT NULL
) STRICT;
CREATE INDEX order_evidence_of_order ON order_evidence (order_id, id);

CREATE TABLE verifications (
    id              BLOB NOT NULL PRIMARY KEY,
    incident_id     BLOB NOT NULL,
    order_id        BLOB,
    verdict         TEXT NOT NULL,
    epoch           INTEGER,
    seq             INTEGER,
    at              TEXT NOT NULL
) STRICT;
CREATE INDEX verifications_of_incident ON verifications (incident_id, id);

-- Remedies that people asked for by hand; answered by the decision that acted on them.
CREATE TABLE manual_requests (
    id              BLOB NOT NULL PRIMARY KEY,
    incident_id     BLOB NOT NULL,
    device_id       BLOB NOT NULL,
    tier            INTEGER,
    skip_waits      INTEGER NOT NULL,
    requested_by    TEXT NOT NULL,
    requested_at    TEXT NOT NULL,
    decision_id     BLOB
) STRICT;
CREATE INDEX manual_requests_unanswered ON manual_requests (incident_id, id) WHERE decision_id IS NULL;

CREATE TABLE api_tokens (
    id              BLOB NOT NULL PRIMARY KEY,
    hash            BLOB NOT NULL UNIQUE,
    name            TEXT NOT NULL,
    role            TEXT NOT NULL,
    expires_at      TEXT NOT NULL,
    created_by      TEXT NOT NULL,
    created_at      TEXT NOT NULL,
    revoked_at      TEXT
) STRICT;
