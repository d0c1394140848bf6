-- What the controller knows. Every record is a version byte and JSON; its key says what it is (store/keys.rs).
CREATE SCHEMA IF NOT EXISTS c2c;

-- One row: which store this is, the version of its tables, and the last commit.
CREATE TABLE c2c.about (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    schema   integer NOT NULL,
    store    text    NOT NULL,
    revision bigint  NOT NULL
);

CREATE TABLE c2c.records (
    key   bytea PRIMARY KEY,
    value bytea NOT NULL
);

-- The last commits, for agents that resume. The writer is a random number of the one who wrote it.
CREATE TABLE c2c.commits (
    revision bigint PRIMARY KEY,
    writer   bytea  NOT NULL,
    record   bytea  NOT NULL
);

INSERT INTO c2c.about (schema, store, revision) VALUES (1, replace(gen_random_uuid()::text, '-', ''), 0);
