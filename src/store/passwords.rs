//! App passwords in the store: many per mailbox, each with a name.

use std::borrow::Cow;

use ipnet::IpNet;
use serde::Deserialize;
use sqlx::Row as _;
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
        // As one text: row by row, each would wake up another thread, which takes ten times as long as all the rest.
        let text = sqlx::query_scalar::<_, String>(
            "SELECT json_group_array(json_array(mailbox, name, kind, hex(hash), protocols, networks, created_at))
             FROM (SELECT * FROM password ORDER BY mailbox, name)",
        )
        .fetch_one(&self.pool)
        .await;
        let rows = match &text {
            Ok(text) => serde_json::from_str::<Vec<Row<'_>>>(text).ok(),
            Err(sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => None,
            Err(failure) => return Err(self.failed(failure)),
        };
        let read: Vec<_> = match rows {
            Some(rows) => rows.into_iter().map(Row::read).collect(),
            // One of them is no text at all.
            None => self.passwords_by_rows().await?,
        };
        let readable = |read: Result<_, sqlx::Error>| {
            read.inspect_err(|error| warn!(%error, "a damaged app password")).ok()
        };
        Ok(read.into_iter().filter_map(readable).collect())
    }

    async fn passwords_by_rows(
        &self,
    ) -> Result<Vec<Result<PasswordRecord, sqlx::Error>>, StoreError> {
        let rows = sqlx::query(
            "SELECT mailbox, name, kind, hex(hash) AS hash, protocols, networks, created_at FROM password
             ORDER BY mailbox, name",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|e| self.failed(&e))?;
        Ok(rows.iter().map(|row| Row::of(row)?.read()).collect())
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

/// As it is stored: mailbox, name, kind, hash in hexadecimal digits, protocols, networks, when it was made.
#[derive(Deserialize)]
struct Row<'a>(
    String,
    String,
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    i64,
);

impl<'a> Row<'a> {
    fn of(row: &'a SqliteRow) -> Result<Self, sqlx::Error> {
        let text = |column| row.try_get::<&str, _>(column).map(Cow::Borrowed);
        Ok(Self(
            row.try_get("mailbox")?,
            row.try_get("name")?,
            text("kind")?,
            text("hash")?,
            text("protocols")?,
            text("networks")?,
            row.try_get("created_at")?,
        ))
    }

    fn read(self) -> Result<PasswordRecord, sqlx::Error> {
        let Self(mailbox, name, kind, hash, protocols, networks, created_at) = self;
        let hash =
            unhex(&hash).ok_or_else(|| sqlx::Error::Decode("no hexadecimal digits".into()))?;
        Ok(PasswordRecord {
            mailbox,
            name,
            hash: match &*kind {
                "generated" => Hash::Generated(hash),
                _ => Hash::Chosen(hash),
            },
            protocols: split(&protocols)?,
            networks: split(&networks)?,
            created_at: Timestamp::from_millis(created_at),
        })
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let octets = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    rest.is_empty().then(|| octets.collect())?
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
        // What is no text at all.
        let damage = "UPDATE password SET name = CAST(x'ff' AS TEXT) WHERE name = 'new'";
        sqlx::query(damage).execute(&store.pool).await.unwrap();
        let names: Vec<_> = store.passwords().await.unwrap().into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["scanner"]);
    }
}
