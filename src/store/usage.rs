//! How many recipients each mailbox has had, by the hour.
//!
//! Invariant: counts are only added to, so that two processes can count at once.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError};

/// Recipients of a mailbox in an hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// As it logs in at the provider's SMTP server, in lower case.
    pub mailbox: String,
    /// Hours since 1970.
    pub hour: i64,
    /// How many, or how many more.
    pub recipients: u32,
}

impl Store {
    /// The counts from `hour` on.
    pub async fn usage_since(&self, hour: i64) -> Result<Vec<Usage>, StoreError> {
        let query = "SELECT mailbox, hour, recipients FROM usage WHERE hour >= ?";
        let rows = sqlx::query(query).bind(hour).fetch_all(&self.pool).await;
        let rows = rows.map_err(|e| self.failed(&e))?;
        rows.iter().map(read).collect::<Result<_, _>>().map_err(|e| self.failed(&e))
    }

    /// Adds to the counts, and forgets those from before `hour`.
    pub async fn add_usage(&self, more: &[Usage], hour: i64) -> Result<(), StoreError> {
        self.may_write()?;
        let write = async {
            let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            for usage in more {
                sqlx::query(
                    "INSERT INTO usage (mailbox, hour, recipients) VALUES (?, ?, ?)
                     ON CONFLICT (mailbox, hour)
                     DO UPDATE SET recipients = recipients + excluded.recipients",
                )
                .bind(&usage.mailbox)
                .bind(usage.hour)
                .bind(i64::from(usage.recipients))
                .execute(&mut *transaction)
                .await?;
            }
            let forget = sqlx::query("DELETE FROM usage WHERE hour < ?").bind(hour);
            forget.execute(&mut *transaction).await?;
            transaction.commit().await
        };
        write.await.map_err(|e| self.failed(&e))
    }
}

fn read(row: &SqliteRow) -> Result<Usage, sqlx::Error> {
    let recipients: i64 = row.try_get("recipients")?;
    Ok(Usage {
        mailbox: row.try_get("mailbox")?,
        hour: row.try_get("hour")?,
        recipients: u32::try_from(recipients).unwrap_or(u32::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn counts_are_added_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        let usage =
            |mailbox: &str, hour, recipients| Usage { mailbox: mailbox.into(), hour, recipients };
        store.add_usage(&[usage("a@b", 7, 3), usage("c@d", 7, 1)], 0).await.unwrap();
        let other = Store::open(folder.path(), None).await.unwrap();
        other.add_usage(&[usage("a@b", 7, 2), usage("a@b", 8, 1)], 0).await.unwrap();
        let mut all = store.usage_since(7).await.unwrap();
        all.sort_by(|a, b| (&a.mailbox, a.hour).cmp(&(&b.mailbox, b.hour)));
        assert_eq!(all, [usage("a@b", 7, 5), usage("a@b", 8, 1), usage("c@d", 7, 1)]);
        store.add_usage(&[], 8).await.unwrap();
        assert_eq!(store.usage_since(0).await.unwrap(), [usage("a@b", 8, 1)]);
    }
}
