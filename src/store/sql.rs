//! The statements. SQLite takes the placeholders of PostgreSQL as long as they appear in their order, so there is one text for
//! both; what differs is how tables are made.

/// The version of the tables after all migrations.
pub(super) const VERSION: i64 = 2;

/// Each brings the tables from the version that is its place to the next.
pub(super) const SQLITE_MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE credential (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        domain TEXT NOT NULL,
        address TEXT NOT NULL,
        username TEXT NOT NULL,
        hash TEXT NOT NULL,
        issued_at INTEGER NOT NULL,
        revoked_at INTEGER
    ) STRICT;
    CREATE INDEX credential_username ON credential (username);
    CREATE INDEX credential_binding ON credential (domain, address);
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        who TEXT NOT NULL,
        what TEXT NOT NULL,
        credential INTEGER NOT NULL REFERENCES credential (id)
    ) STRICT;
    CREATE TABLE revision (n INTEGER NOT NULL) STRICT;
    INSERT INTO revision (n) VALUES (0);
",
    "
    CREATE TABLE conversation (
        key TEXT PRIMARY KEY,
        thread TEXT NOT NULL,
        authenticated INTEGER NOT NULL,
        seen_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX conversation_thread ON conversation (thread, seen_at);
    CREATE INDEX conversation_seen_at ON conversation (seen_at);
",
];

pub(super) const POSTGRES_MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE credential (
        id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        domain TEXT NOT NULL,
        address TEXT NOT NULL,
        username TEXT NOT NULL,
        hash TEXT NOT NULL,
        issued_at BIGINT NOT NULL,
        revoked_at BIGINT
    );
    CREATE INDEX credential_username ON credential (username);
    CREATE INDEX credential_binding ON credential (domain, address);
    CREATE TABLE audit (
        id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at BIGINT NOT NULL,
        who TEXT NOT NULL,
        what TEXT NOT NULL,
        credential BIGINT NOT NULL REFERENCES credential (id)
    );
    CREATE TABLE revision (n BIGINT NOT NULL);
    INSERT INTO revision (n) VALUES (0);
",
    "
    CREATE TABLE conversation (
        key TEXT PRIMARY KEY,
        thread TEXT NOT NULL,
        authenticated BIGINT NOT NULL,
        seen_at BIGINT NOT NULL
    );
    CREATE INDEX conversation_thread ON conversation (thread, seen_at);
    CREATE INDEX conversation_seen_at ON conversation (seen_at);
",
];

/// Of PostgreSQL; SQLite has a place for it of its own.
pub(super) const TABLES_VERSION: &str = "SELECT version FROM deskmilter_version";

/// Domain and address of live sets of a user name.
pub(super) const OWNERS_OF_NAME: &str =
    "SELECT DISTINCT domain, address FROM credential WHERE username = $1 AND revoked_at IS NULL";

pub(super) const COUNT_LIVE: &str =
    "SELECT count(*) FROM credential WHERE domain = $1 AND address = $2 AND revoked_at IS NULL";

pub(super) const INSERT: &str = "INSERT INTO credential (domain, address, username, hash, issued_at) \
                                 VALUES ($1, $2, $3, $4, $5) RETURNING id";

pub(super) const AUDIT: &str = "INSERT INTO audit (at, who, what, credential) VALUES ($1, $2, $3, $4)";

pub(super) const CHANGE: &str = "UPDATE revision SET n = n + 1";

pub(super) const REVISION: &str = "SELECT n FROM revision";

pub(super) const REVOKE_ID: &str = "UPDATE credential SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL \
                                    RETURNING id, domain, address, username, issued_at, revoked_at";

pub(super) const REVOKE_USER: &str = "UPDATE credential SET revoked_at = $1 WHERE username = $2 AND revoked_at IS NULL \
                                      RETURNING id, domain, address, username, issued_at, revoked_at";

pub(super) const REVOKE_BINDING: &str = "UPDATE credential SET revoked_at = $1 WHERE domain = $2 AND address = $3 AND revoked_at IS NULL \
     RETURNING id, domain, address, username, issued_at, revoked_at";

pub(super) const LIST_ALL: &str =
    "SELECT id, domain, address, username, issued_at, revoked_at FROM credential ORDER BY id";

pub(super) const LIST_LIVE: &str = "SELECT id, domain, address, username, issued_at, revoked_at FROM credential \
                                    WHERE revoked_at IS NULL ORDER BY id";

/// Live sets first. Of a name there are two live ones at most, and one that is revoked is enough to know the name.
pub(super) const SETS_OF: &str = "SELECT id, domain, address, username, issued_at, revoked_at, hash FROM credential \
                                  WHERE username = $1 ORDER BY (revoked_at IS NULL) DESC, id DESC LIMIT 4";

pub(super) const LOGINS_FOR: &str = "SELECT DISTINCT username FROM credential \
     WHERE domain = $1 AND (address = '' OR address = $2) AND revoked_at IS NULL ORDER BY username LIMIT 100";

pub(super) const EVENTS: &str = "SELECT at, who, what, credential, domain, address, username FROM audit \
                                 JOIN credential ON credential.id = audit.credential ORDER BY audit.id DESC LIMIT $1";

/// SQLite has no arrays: there it is asked once for each key.
pub(super) const CONVERSATION: &str =
    "SELECT key, thread, authenticated FROM conversation WHERE key = $1 AND seen_at >= $2";

pub(super) const CONVERSATIONS: &str =
    "SELECT key, thread, authenticated FROM conversation WHERE key = ANY($1) AND seen_at >= $2";

/// What a message belongs to is settled when it is first seen.
pub(super) const REMEMBER: &str = "INSERT INTO conversation (key, thread, authenticated, seen_at) VALUES ($1, $2, $3, $4) \
                                   ON CONFLICT (key) DO UPDATE SET seen_at = excluded.seen_at";

/// Messages of one conversation at most: who writes thousands loses the oldest of his own.
pub(super) const TRIM: &str = "DELETE FROM conversation WHERE thread = $1 AND key IN (SELECT key FROM conversation \
                               WHERE thread = $1 ORDER BY seen_at DESC, key LIMIT 1000 OFFSET 1000)";

/// At a time so many at most, for it holds up others.
pub(super) const FORGET_BEFORE: &str = "DELETE FROM conversation WHERE key IN \
                                        (SELECT key FROM conversation WHERE seen_at < $1 LIMIT 5000)";

pub(super) const FORGET_BEYOND: &str = "DELETE FROM conversation WHERE key IN \
                                        (SELECT key FROM conversation ORDER BY seen_at DESC, key LIMIT 5000 OFFSET $1)";
