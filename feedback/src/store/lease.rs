//! Leases: what only one process may do at a time. A holder renews in time; a lease that ran out is anybody's.

use std::time::Duration;

use super::{Millis, Store, StoreError, now};

impl Store {
    /// Takes or renews the lease `name` for `holder`, for `ttl` from now by this machine's clock. Answers whether it is
    /// held.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<bool, StoreError> {
        let now = now();
        let expires_at = now.saturating_add(Millis::try_from(ttl.as_millis()).unwrap_or(Millis::MAX));
        let mut write = self.write().await?;
        let done = sqlx::query(
            "INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO UPDATE \
             SET holder = excluded.holder, expires_at = excluded.expires_at \
             WHERE leases.holder = excluded.holder OR leases.expires_at <= $4",
        )
        .bind(name)
        .bind(holder)
        .bind(expires_at)
        .bind(now)
        .execute(write.connection())
        .await
        .map_err(StoreError::database("take a lease"))?;
        write.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// Gives the lease back, if `holder` has it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        sqlx::query("DELETE FROM leases WHERE name = $1 AND holder = $2")
            .bind(name)
            .bind(holder)
            .execute(write.connection())
            .await
            .map_err(StoreError::database("give a lease back"))?;
        write.commit().await
    }
}
