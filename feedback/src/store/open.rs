//! Opening a store: from a URL to a migrated, checked pool of connections, or a sentence that says what is wrong with
//! the URL, the folder or the server.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Once};
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, ConnectOptions, Connection, Row, SqlSafeStr};

use super::error::plain;
use super::{Store, StoreError};

/// The schema, step by step. A step that was released is never changed; what follows it is a new one.
const MIGRATIONS: [(i64, &str, &str); 2] = [
    (1, "feedback", include_str!("../../migrations/0001_feedback.sql")),
    (2, "policy", include_str!("../../migrations/0002_policy.sql")),
];
/// Connections of a pool: one writes, the others read.
const MAX_CONNECTIONS: u32 = 6;
/// How long a statement waits for a lock of another process.
const SQLITE_SETTINGS: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
     PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA cache_size = -16384";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a file that are read at every start, in half a second or so.
const LARGE: i64 = 256 << 20;
/// Two processes that open a new store at once: one of them tries again.
const ATTEMPTS: u32 = 5;

/// The database behind a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// A file.
    Sqlite,
    /// A server.
    Postgres,
}

/// How closely a database is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thoroughness {
    /// Pages and records, in time for a start: of a large file those alone that say what is served.
    Quick,
    /// Indices too.
    Full,
}

impl Store {
    /// Opens `sqlite://PATH` (created if it is not there, with its folder) or `postgres://…`, brings the schema up to
    /// date and checks the database.
    ///
    /// # Errors
    /// [`StoreError::Open`], and [`StoreError::Damaged`] for a database that is not sound.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let fail = |message: String| StoreError::Open { url: without_password(url), message };
        let (dialect, connect_to) = target(url).map_err(fail)?;
        let options = AnyConnectOptions::from_str(&connect_to)
            .map_err(|error| fail(format!("is no URL of a database: {error}")))?
            .disable_statement_logging();
        // A pool goes on trying until its time is over; a person wants to know at once what is wrong.
        let first = AnyConnection::connect_with(&options).await;
        let mut first = first.map_err(|error| fail(unopened(dialect, url, &error)))?;
        settle(dialect, &mut first).await.map_err(|error| fail(unopened(dialect, url, &error)))?;
        let pool = AnyPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(move |connection, _| Box::pin(settle(dialect, connection)))
            .connect_with(options)
            .await
            .map_err(|error| fail(unopened(dialect, url, &error)))?;
        // Only now: the last connection to leave a file takes its log away.
        drop(first.close().await);
        let store = Self { pool, dialect, turn: Arc::default() };
        store.check_database(Thoroughness::Quick).await?;
        store.migrate().await.map_err(fail)?;
        Ok(store)
    }

    async fn migrate(&self) -> Result<(), String> {
        let step = |&(version, name, sql): &(i64, &'static str, &'static str)| {
            Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
        };
        let migrator = Migrator::with_migrations(MIGRATIONS.iter().map(step).collect());
        let mut attempt = 1;
        loop {
            match migrator.run(&self.pool).await {
                Ok(()) => return Ok(()),
                Err(sqlx::migrate::MigrateError::VersionMissing(version)) => {
                    return Err(format!(
                        "was written by a newer version of this program (its schema has step {version}); update it"
                    ));
                }
                Err(_) if attempt < ATTEMPTS => {
                    tokio::time::sleep(Duration::from_millis(100) * attempt).await;
                    attempt += 1;
                }
                Err(error) => return Err(format!("cannot be brought up to date: {error}")),
            }
        }
    }

    pub(super) async fn check_database(&self, how: Thoroughness) -> Result<(), StoreError> {
        match (self.dialect, how) {
            // PostgreSQL checks its pages itself whenever it reads one.
            (Dialect::Postgres, _) => Ok(()),
            (Dialect::Sqlite, Thoroughness::Full) => self.pragma("PRAGMA integrity_check(1)").await,
            (Dialect::Sqlite, Thoroughness::Quick) => self.quick_check(LARGE).await,
        }
    }

    /// Reads every page, or of a file larger than `large` bytes those of the tables that do not grow with the traffic.
    pub(super) async fn quick_check(&self, large: i64) -> Result<(), StoreError> {
        let size = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
        let size: i64 = match sqlx::query_scalar(size).fetch_one(&self.pool).await {
            Ok(size) => size,
            Err(error) => return Err(StoreError::Damaged(plain(&error))),
        };
        if size <= large {
            return self.pragma("PRAGMA quick_check(1)").await;
        }
        self.pragma("PRAGMA quick_check('training_runs')").await?;
        self.pragma("PRAGMA quick_check('serving')").await?;
        self.pragma("PRAGMA quick_check('event_head')").await
    }

    /// Runs a check that says `ok`, or what is wrong.
    async fn pragma(&self, statement: &'static str) -> Result<(), StoreError> {
        let finding = match sqlx::query(statement).fetch_one(&self.pool).await {
            Ok(row) => row.try_get::<String, _>(0).map_err(StoreError::database("check itself"))?,
            Err(error) => plain(&error),
        };
        if finding == "ok" { Ok(()) } else { Err(StoreError::Damaged(finding)) }
    }
}

/// Prepares a new connection.
async fn settle(dialect: Dialect, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    if dialect == Dialect::Postgres {
        return Ok(());
    }
    let is_locked = |error: &sqlx::Error| plain(error).contains("database is locked");
    let mut attempt = 1;
    loop {
        // Of two that turn a new file to its log at once, one is refused without waiting.
        match sqlx::raw_sql(SQLITE_SETTINGS).execute(&mut *connection).await {
            Err(error) if is_locked(&error) && attempt < ATTEMPTS => {
                tokio::time::sleep(Duration::from_millis(20) * attempt).await;
                attempt += 1;
            }
            outcome => return outcome.map(drop),
        }
    }
}

/// The database of a URL, and the URL for the driver.
fn target(url: &str) -> Result<(Dialect, String), String> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok((Dialect::Postgres, url.to_owned()));
    }
    let Some(path) = url.strip_prefix("sqlite:") else {
        return Err("must begin with sqlite:// (and a path) or postgres://".into());
    };
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.contains(":memory:") || path.contains('?') {
        return Err("must name a file, as in sqlite://rectify-data/feedback.db".into());
    }
    let path = PathBuf::from(path);
    prepare(&path)?;
    let whole = std::path::absolute(&path).map_err(|error| format!("has no usable path: {error}"))?;
    // A driver's URL reads `%`, `?` and `#` in its own way.
    let mut encoded = String::from("sqlite://");
    for byte in whole.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                encoded.push(char::from(*byte));
            }
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok((Dialect::Sqlite, encoded + "?mode=rwc"))
}

/// Makes the folder, and finds out by doing whether the file can be written.
fn prepare(path: &Path) -> Result<(), String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let refuse = |error: std::io::Error| {
        format!(
            "cannot be used: the folder {} cannot be written ({error}); choose another with --data-dir, or keep no feedback with `store: {{url: none}}`",
            folder.display()
        )
    };
    if path.is_dir() {
        return Err("is a folder, but must be a file".into());
    }
    fs::create_dir_all(folder).map_err(refuse)?;
    // SQLite also makes files beside its own, so the folder itself must take new ones.
    let probe = folder.join(format!(".rectify-{}", std::process::id()));
    fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).map_err(refuse)?;
    let opened = fs::OpenOptions::new().append(true).create(true).open(path);
    opened.map(|_| ()).map_err(|error| format!("cannot be written: {error}"))
}

fn unopened(dialect: Dialect, url: &str, error: &sqlx::Error) -> String {
    let cause = plain(error);
    match dialect {
        Dialect::Sqlite if cause.contains("not a database") => {
            "is a file of another kind; name a new file or one of this program".into()
        }
        Dialect::Sqlite => format!("cannot be opened: {cause}"),
        Dialect::Postgres => {
            let cause = cause.replace(url, &without_password(url));
            format!(
                "cannot be reached: {cause}; check that the server runs and that user, password and database are right"
            )
        }
    }
}

/// The URL with `***` where a password stands.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    let Some(at) = rest[..end].rfind('@') else { return url.to_owned() };
    match rest[..at].split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***{}", &rest[at..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        for (url, shown) in [
            ("postgres://me:secret@host:5/db", "postgres://me:***@host:5/db"),
            ("postgres://me:s@cret@host/db", "postgres://me:***@host/db"),
            ("postgres://me@host/db", "postgres://me@host/db"),
            ("postgres://host/db?x=a@b", "postgres://host/db?x=a@b"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    #[test]
    fn what_is_no_store_is_refused() {
        for url in ["mysql://host/db", "feedback.db", "sqlite://", "sqlite::memory:", "sqlite://:memory:"] {
            assert!(target(url).is_err(), "{url}");
        }
    }
}
