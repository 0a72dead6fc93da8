-- Version 1 of an agent's own file. Times are microseconds since the Unix epoch; ids are 16 bytes.
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch INTEGER NOT NULL,
    next_seq INTEGER NOT NULL,
    acked_seq INTEGER NOT NULL,
    recorded INTEGER NOT NULL,
    cursor TEXT,
    max_fence INTEGER NOT NULL,
    change INTEGER NOT NULL,
    forgot_before INTEGER,
    safe_until INTEGER
) STRICT;

CREATE TABLE outcomes (
    seq INTEGER PRIMARY KEY,
    body TEXT NOT NULL
) STRICT;

CREATE TABLE orders (
    order_id BLOB PRIMARY KEY,
    fence INTEGER NOT NULL,
    action TEXT NOT NULL,
    note BLOB NOT NULL,
    phase TEXT NOT NULL,
    refusal TEXT,
    detail TEXT NOT NULL,
    accepted_at INTEGER NOT NULL,
    finished_at INTEGER,
    begun INTEGER NOT NULL,
    cancel INTEGER NOT NULL,
    unwind TEXT,
    change INTEGER NOT NULL,
    told INTEGER NOT NULL
) STRICT;

CREATE TABLE steps (
    order_id BLOB NOT NULL REFERENCES orders (order_id) ON DELETE CASCADE,
    idx INTEGER NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    undo TEXT,
    undo_owed INTEGER NOT NULL,
    data TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    detail TEXT NOT NULL,
    findings TEXT NOT NULL,
    at INTEGER NOT NULL,
    change INTEGER NOT NULL,
    PRIMARY KEY (order_id, idx)
) STRICT, WITHOUT ROWID;

CREATE TABLE reboots (
    at INTEGER NOT NULL,
    order_id BLOB NOT NULL
) STRICT;

CREATE TABLE starts (
    at INTEGER NOT NULL
) STRICT;
