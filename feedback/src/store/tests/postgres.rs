//! A database for one test, on the PostgreSQL that `RECTIFY_TEST_POSTGRES` names: `postgres://USER:PASSWORD@HOST/DATABASE` of
//! a user who may create databases. For the store's tests, and for those from end to end, which compile this file, too.

use sqlx::Connection;

const SERVER: &str = "RECTIFY_TEST_POSTGRES";

/// A database of its own.
pub(super) struct Database {
    server: String,
    name: String,
    pub(super) url: String,
}

impl Database {
    /// A new one; `None`, said aloud, without a server.
    pub(super) async fn create() -> Option<Self> {
        let Ok(server) = std::env::var(SERVER) else {
            eprintln!("NOT RUN on PostgreSQL: {SERVER} is not set");
            return None;
        };
        let name = format!("rectify_{}", uuid::Uuid::new_v4().simple());
        administer(&server, format!("CREATE DATABASE {name}")).await;
        let (base, _) = server.rsplit_once('/').expect("the URL of a database");
        let url = format!("{base}/{name}");
        Some(Self { server, name, url })
    }

    /// Whoever is still connected is thrown out.
    pub(super) async fn remove(self) {
        administer(&self.server, format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
    }
}

async fn administer(server: &str, statement: String) {
    sqlx::any::install_default_drivers();
    let mut connection = sqlx::AnyConnection::connect(server).await.expect("the PostgreSQL of the tests");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.expect("administers");
    connection.close().await.expect("close");
}
