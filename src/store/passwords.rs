//! App passwords in the store: many per mailbox, each with a name.

use ipnet::IpNet;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use tracing::warn;

use super::{Store, StoreError};
use crate::clock::Timestamp;
use crate::vocabulary::Protocol;

/// How a password is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hash {
    /// Made by gatepost: a keyed hash, since it can't be guessed.
    Generated(Vec<u8>),
    /// Chosen by a person: a slow hash.
    Chosen(Vec<u8>),
}

/// An app password without the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordRecord {
    /// Whose it is, in lower case.
    pub mailbox: String,
    /// What tells it from the mailbox's others: the device, for instance.
    pub name: String,
    /// To check it with.
    pub hash: Hash,
    /// Where it may be used; empty: all.
    pub protocols: Vec<Protocol>,
    /// From where it may be used; empty: all.
    pub networks: Vec<IpNet>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Store {
    /// All app passwords, by mailbox and name. One that can't be read opens nothing, and shuts out nobody
    /// else.
    pub async fn passwords(&self) -> Result<Vec<PasswordRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT mailbox, name, kind, hash, protocols, networks, created_at FROM password
             ORDER BY mailbox, name",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|e| self.failed(&e))?;
        let readable = |row| read(row).inspect_err(|error| warn!(%error, "a damaged app password"));
        Ok(rows.iter().filter_map(|row| readable(row).ok()).collect())
    }

    /// Adds one; `false` if the mailbox has one of that name.
    pub async fn add_password(&self, record: &PasswordRecord) -> Result<bool, StoreError> {
        let (kind, hash) = match &record.hash {
            Hash::Generated(hash) => ("generated", hash),
            Hash::Chosen(hash) => ("chosen", hash),
        };
        let added = sqlx::query(
            "INSERT OR IGNORE INTO password
             (mailbox, name, kind, hash, protocols, networks, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&record.mailbox)
            .bind(&record.name)
            .bind(kind)
            .bind(hash)
            .bind(join(&record.protocols))
            .bind(join(&record.networks))
            .bind(record.created_at.as_millis())
            .execute(&self.pool)
            .await
            .map_err(|e| self.failed(&e))?;
        Ok(added.rows_affected() > 0)
    }

    /// Removes one; whether there was one.
    pub async fn revoke_password(&self, mailbox: &str, name: &str) -> Result<bool, StoreError> {
        let removed = sqlx::query("DELETE FROM password WHERE mailbox = ? AND name = ?")
            .bind(mailbox)
            .bind(name)
            .execute(&self.pool)
            .await
            .map_err(|e| self.failed(&e))?;
        Ok(removed.rows_affected() > 0)
    }
}

fn read(row: &SqliteRow) -> Result<PasswordRecord, sqlx::Error> {
    let hash = row.try_get("hash")?;
    Ok(PasswordRecord {
        mailbox: row.try_get("mailbox")?,
        name: row.try_get("name")?,
        hash: match row.try_get("kind")? {
            "generated" => Hash::Generated(hash),
            _ => Hash::Chosen(hash),
        },
        protocols: split(row.try_get("protocols")?)?,
        networks: split(row.try_get("networks")?)?,
        created_at: Timestamp::from_millis(row.try_get("created_at")?),
    })
}

fn join(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// A limit that can't be read must not be taken for none.
fn split<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, sqlx::Error> {
    let item = |word: &str| word.parse().map_err(|_| sqlx::Error::Decode(word.into()));
    text.split_ascii_whitespace().map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn added_listed_and_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        let record = PasswordRecord {
            mailbox: "jane@contoso.com".into(),
            name: "scanner".into(),
            hash: Hash::Generated(vec![1, 2]),
            protocols: vec![Protocol::Smtp],
            networks: vec!["10.0.0.0/24".parse().unwrap()],
            created_at: Timestamp::from_millis(7),
        };
        assert!(store.add_password(&record).await.unwrap());
        assert!(!store.add_password(&record).await.unwrap());
        assert_eq!(store.passwords().await.unwrap(), [record]);
        assert!(store.revoke_password("jane@contoso.com", "scanner").await.unwrap());
        assert!(!store.revoke_password("jane@contoso.com", "scanner").await.unwrap());
    }

    #[tokio::test]
    async fn a_damaged_one_shuts_out_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        for (name, protocols) in [("new", "jmap"), ("scanner", "smtp")] {
            sqlx::query("INSERT INTO password VALUES ('jane', ?, 'generated', x'00', ?, '', 0)")
                .bind(name)
                .bind(protocols)
                .execute(&store.pool)
                .await
                .unwrap();
        }
        let names: Vec<_> = store.passwords().await.unwrap().into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["scanner"]);
    }
}
