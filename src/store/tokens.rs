//! Tokens in the store.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use tracing::warn;
use zeroize::{Zeroize, Zeroizing};

use super::faults::{self, TokenFault};
use super::{Store, StoreError};
use crate::clock::Timestamp;
use crate::secret::Secret;
use crate::vocabulary::Resource;

/// What is kept of a principal's sign-in: one refresh token, and an access token for each resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Token {
    /// For the next access token; app-only grants have none.
    pub refresh_token: Option<Secret<String>>,
    /// The access token for mail, and its life.
    pub access: Option<StoredToken>,
    /// The one for Microsoft Graph.
    pub graph: Option<StoredToken>,
}

impl Token {
    /// The access token for `resource`.
    pub fn access_to(&self, resource: Resource) -> Option<&StoredToken> {
        match resource {
            Resource::Mail => self.access.as_ref(),
            Resource::Graph => self.graph.as_ref(),
        }
    }

    /// When the last of its access tokens was received.
    pub fn issued_at(&self) -> Option<Timestamp> {
        Resource::ALL.into_iter().filter_map(|of| Some(self.access_to(of)?.issued_at)).max()
    }

    /// The place of the access token for `resource`.
    pub fn access_mut(&mut self, resource: Resource) -> &mut Option<StoredToken> {
        match resource {
            Resource::Mail => &mut self.access,
            Resource::Graph => &mut self.graph,
        }
    }
}

/// An access token as it was issued.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredToken {
    /// The token.
    pub token: Secret<String>,
    /// When it was received.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When the token endpoint wants it renewed, if it said so.
    pub refresh_at: Option<Timestamp>,
    /// What it was asked for with; it is of no use under another configuration.
    pub fingerprint: String,
}

/// What came of [`Store::save_token`].
#[derive(Debug, PartialEq, Eq)]
pub enum Saved {
    /// It is on disk, as this revision.
    Written(i64),
    /// Another process has written a newer one, which was left.
    Newer,
}

/// The form inside the seal.
#[derive(Serialize, Deserialize)]
struct Sealed {
    refresh_token: Option<String>,
    access_token: Option<String>,
    issued_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    refresh_at: Option<Timestamp>,
    fingerprint: Option<String>,
    /// Stores of before have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    graph: Option<SealedAccess>,
}

/// An access token inside the seal.
#[derive(Serialize, Deserialize)]
struct SealedAccess {
    token: String,
    issued_at: Timestamp,
    expires_at: Timestamp,
    refresh_at: Option<Timestamp>,
    fingerprint: String,
}

impl Drop for Sealed {
    fn drop(&mut self) {
        self.refresh_token.zeroize();
        self.access_token.zeroize();
    }
}

impl Drop for SealedAccess {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

impl Store {
    /// The token of `principal` if it is signed in, and the row's revision (0: there never was one). One that
    /// is damaged is as good as none: only a new sign-in mends it.
    pub async fn token(&self, principal: &str) -> Result<(Option<Token>, i64), StoreError> {
        self.in_place().map_err(|failure| self.noted(failure))?;
        let row = sqlx::query("SELECT sealed, revision FROM token WHERE principal = ?")
            .bind(principal)
            .fetch_optional(&self.pool)
            .await
            .map_err(|e| self.failed(&e))?;
        row.map_or(Ok((None, 0)), |row| self.read(principal, &row))
    }

    /// The same of many at once; of those that are missing in the answer there never was one.
    pub async fn tokens(
        &self,
        principals: &[String],
    ) -> Result<HashMap<String, (Option<Token>, i64)>, StoreError> {
        self.in_place().map_err(|failure| self.noted(failure))?;
        let rows = sqlx::query(
            "SELECT principal, sealed, revision FROM token
             WHERE principal IN (SELECT value FROM json_each(?))",
        )
        .bind(names(principals))
        .fetch_all(&self.pool)
        .await
        .map_err(|e| self.failed(&e))?;
        let read = |row: &SqliteRow| {
            let principal: String = row.try_get("principal").map_err(|e| self.failed(&e))?;
            let token = self.read(&principal, row)?;
            Ok((principal, token))
        };
        rows.iter().map(read).collect()
    }

    fn read(&self, principal: &str, row: &SqliteRow) -> Result<(Option<Token>, i64), StoreError> {
        let revision = row.try_get("revision").map_err(|e| self.failed(&e))?;
        let sealed: Option<Vec<u8>> = row.try_get("sealed").map_err(|e| self.failed(&e))?;
        let Some(sealed) = sealed else { return Ok((None, revision)) };
        let plain = self.seal.open_sealed(&sealed, principal);
        let token = plain.and_then(|plain| serde_json::from_slice::<Sealed>(&plain).ok());
        if token.is_none() {
            warn!(principal, "the stored token is damaged");
        }
        Ok((token.map(Sealed::into_token), revision))
    }

    /// Writes a token that replaces the one of revision `seen` (0: none).
    pub async fn save_token(
        &self,
        principal: &str,
        seen: i64,
        token: &Token,
    ) -> Result<Saved, StoreError> {
        self.may_write()?;
        let written = sqlx::query(
            "INSERT INTO token (principal, revision, sealed)
             SELECT ?1, ?2 + 1, ?3 WHERE ?2 = 0 OR EXISTS (SELECT 1 FROM token WHERE principal = ?1)
             ON CONFLICT (principal) DO UPDATE
             SET revision = ?2 + 1, sealed = ?3
             WHERE revision = ?2",
        )
        .bind(principal)
        .bind(seen)
        .bind(self.sealed(principal, token)?)
        .execute(&self.pool)
        .await
        .map_err(|e| self.failed(&e))?;
        // What went into a file that is no longer there is lost with this process.
        self.in_place().map_err(|failure| self.noted(failure))?;
        Ok(if written.rows_affected() == 1 { Saved::Written(seen + 1) } else { Saved::Newer })
    }

    /// Writes a new sign-in, whatever was there; the faults of the former one are void. Both at once: nobody
    /// sees the new one with the old one's fault, or writes that in between.
    pub async fn replace_token(&self, principal: &str, token: &Token) -> Result<(), StoreError> {
        let sealed = self.sealed(principal, token)?;
        let replaced = async {
            let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            faults::delete(principal, &mut transaction).await?;
            sqlx::query(
                "INSERT INTO token (principal, revision, sealed) VALUES (?1, 1, ?2)
                 ON CONFLICT (principal) DO UPDATE SET revision = revision + 1, sealed = ?2",
            )
            .bind(principal)
            .bind(sealed)
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await
        };
        replaced.await.map_err(|e| self.failed(&e))
    }

    fn sealed(&self, principal: &str, token: &Token) -> Result<Vec<u8>, StoreError> {
        let plain = serde_json::to_vec(&Sealed::from_token(token)).map(Zeroizing::new);
        let plain = plain.map_err(|_| StoreError::Unsealable(principal.to_owned()))?;
        self.seal.seal(&plain, principal)
    }

    /// The revision of the token of `principal`; 0: there is none.
    pub async fn token_revision(&self, principal: &str) -> Result<i64, StoreError> {
        let revision = sqlx::query_scalar("SELECT revision FROM token WHERE principal = ?")
            .bind(principal)
            .fetch_optional(&self.pool)
            .await
            .map_err(|e| self.failed(&e))?;
        Ok(revision.unwrap_or(0))
    }

    /// Forgets a sign-in; whether there was one. Its revision stays and grows, so that a renewal that is
    /// under way can't bring it back. With `fault` as the reason why there is none: that a person must act is no
    /// news then.
    pub async fn delete_token(
        &self,
        principal: &str,
        fault: Option<&TokenFault>,
    ) -> Result<bool, StoreError> {
        let deleted = async {
            let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            let deleted = sqlx::query(
                "UPDATE token SET sealed = NULL, revision = revision + 1
                 WHERE principal = ? AND sealed IS NOT NULL",
            )
            .bind(principal)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
            if let (Some(fault), 1..) = (fault, deleted) {
                faults::delete(principal, &mut transaction).await?;
                fault.write(principal, &mut transaction).await?;
            }
            transaction.commit().await?;
            Ok(deleted > 0)
        };
        deleted.await.map_err(|e| self.failed(&e))
    }

    /// Whether `about` is told of `subject` for the first time, in all processes' lives.
    pub async fn tell_once(&self, subject: &str, about: &str) -> Result<bool, StoreError> {
        let told = sqlx::query("INSERT OR IGNORE INTO notice (subject, about) VALUES (?, ?)")
            .bind(subject)
            .bind(about)
            .execute(&self.pool)
            .await
            .map_err(|e| self.failed(&e))?;
        Ok(told.rows_affected() > 0)
    }

    /// Keeps a sign-in on another device that is under way, or forgets it.
    pub async fn keep_device(
        &self,
        principal: &str,
        plain: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let sealed =
            plain.map(|plain| self.seal.seal(plain, &device_name(principal))).transpose()?;
        let query = match sealed {
            Some(sealed) => sqlx::query("INSERT OR REPLACE INTO device VALUES (?, ?)")
                .bind(principal)
                .bind(sealed),
            None => sqlx::query("DELETE FROM device WHERE principal = ?").bind(principal),
        };
        query.execute(&self.pool).await.map_err(|e| self.failed(&e))?;
        Ok(())
    }

    /// The sign-in on another device that is under way. One that is damaged is none.
    pub async fn device(&self, principal: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let sealed: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT sealed FROM device WHERE principal = ?")
                .bind(principal)
                .fetch_optional(&self.pool)
                .await
                .map_err(|e| self.failed(&e))?;
        Ok(sealed.and_then(|sealed| self.seal.open_sealed(&sealed, &device_name(principal))))
    }
}

/// For `json_each`.
pub(super) fn names(principals: &[String]) -> String {
    serde_json::Value::from(principals).to_string()
}

/// What a device's code is sealed for: not the name that a token is sealed for.
fn device_name(principal: &str) -> String {
    format!("device {principal}")
}

impl Sealed {
    fn from_token(token: &Token) -> Self {
        let access = token.access.as_ref();
        Self {
            refresh_token: token.refresh_token.as_ref().map(|token| token.expose().clone()),
            access_token: access.map(|access| access.token.expose().clone()),
            issued_at: access.map(|access| access.issued_at),
            expires_at: access.map(|access| access.expires_at),
            refresh_at: access.and_then(|access| access.refresh_at),
            fingerprint: access.map(|access| access.fingerprint.clone()),
            graph: token.graph.as_ref().map(SealedAccess::from_token),
        }
    }

    fn into_token(mut self) -> Token {
        let refresh_token = self.refresh_token.take().map(Secret::new);
        let access = (|| {
            Some(StoredToken {
                token: Secret::new(self.access_token.take()?),
                issued_at: self.issued_at?,
                expires_at: self.expires_at?,
                refresh_at: self.refresh_at,
                fingerprint: self.fingerprint.take()?,
            })
        })();
        let graph = self.graph.take().map(SealedAccess::into_token);
        Token { refresh_token, access, graph }
    }
}

impl SealedAccess {
    fn from_token(token: &StoredToken) -> Self {
        Self {
            token: token.token.expose().clone(),
            issued_at: token.issued_at,
            expires_at: token.expires_at,
            refresh_at: token.refresh_at,
            fingerprint: token.fingerprint.clone(),
        }
    }

    fn into_token(mut self) -> StoredToken {
        StoredToken {
            token: Secret::new(std::mem::take(&mut self.token)),
            issued_at: self.issued_at,
            expires_at: self.expires_at,
            refresh_at: self.refresh_at,
            fingerprint: std::mem::take(&mut self.fingerprint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(refresh: &str) -> Token {
        Token { refresh_token: Some(Secret::new(refresh.to_owned())), ..Token::default() }
    }

    #[tokio::test]
    async fn a_slow_renewal_does_not_overwrite_a_newer_sign_in() {
        let folder = tempfile::tempdir().unwrap();
        let proxy = Store::open(folder.path(), None).await.unwrap();
        let command = Store::open(folder.path(), None).await.unwrap();
        assert_eq!(proxy.save_token("jane", 0, &token("one")).await.unwrap(), Saved::Written(1));
        let before = proxy.version().await.unwrap();
        command.replace_token("jane", &token("two")).await.unwrap();
        assert_ne!(proxy.version().await.unwrap(), before);
        assert_eq!(proxy.save_token("jane", 1, &token("slow")).await.unwrap(), Saved::Newer);
        assert_eq!(proxy.token("jane").await.unwrap(), (Some(token("two")), 2));
        assert!(command.delete_token("jane", None).await.unwrap());
        assert!(!command.delete_token("jane", None).await.unwrap());
        assert_eq!(proxy.save_token("jane", 2, &token("slow")).await.unwrap(), Saved::Newer);
        assert_eq!(proxy.token("jane").await.unwrap(), (None, 3));
    }

    #[tokio::test]
    async fn another_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        Store::open(folder.path(), None).await.unwrap().close().await;
        let other = folder.path().join("other.key");
        let error = Store::open(folder.path(), Some(&other)).await.unwrap_err();
        assert!(matches!(error, StoreError::WrongKey(_)), "{error}");
    }

    #[tokio::test]
    async fn a_damaged_one_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        store.replace_token("jane", &token("one")).await.unwrap();
        let damage = "UPDATE token SET sealed = x'00'";
        sqlx::query(damage).execute(&store.pool).await.unwrap();
        assert_eq!(store.token("jane").await.unwrap(), (None, 1));
        store.replace_token("jane", &token("two")).await.unwrap();
        assert_eq!(store.token("jane").await.unwrap(), (Some(token("two")), 2));
    }
}
