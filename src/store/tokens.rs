//! Tokens in the store.

use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};
use tracing::warn;
use zeroize::{Zeroize, Zeroizing};

use super::{Store, StoreError};
use crate::clock::Timestamp;
use crate::secret::Secret;
use crate::vocabulary::Cause;

/// What is kept of a principal's sign-in.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// For the next access token; app-only grants have none.
    pub refresh_token: Option<Secret<String>>,
    /// The access token and its life.
    pub access: Option<StoredToken>,
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

/// The last failure of a principal's renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFault {
    /// In words.
    pub error: String,
    /// It stays until a person acts, on this; none: it may pass.
    pub cause: Option<Cause>,
    /// The names of the request, as the provider's support asks for them; empty: there was none.
    pub trace: String,
    /// When.
    pub at: Timestamp,
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
}

impl Drop for Sealed {
    fn drop(&mut self) {
        self.refresh_token.zeroize();
        self.access_token.zeroize();
    }
}

impl Store {
    /// The token of `principal` if it is signed in, and the row's revision (0: there never was one). One that
    /// is damaged is as good as none: only a new sign-in mends it.
    pub async fn token(&self, principal: &str) -> Result<(Option<Token>, i64), StoreError> {
        let row = sqlx::query("SELECT sealed, revision FROM token WHERE principal = ?")
            .bind(principal)
            .fetch_optional(&self.pool)
            .await
            .map_err(|e| self.failed(e))?;
        let Some(row) = row else { return Ok((None, 0)) };
        let revision = row.try_get("revision").map_err(|e| self.failed(e))?;
        let sealed: Option<Vec<u8>> = row.try_get("sealed").map_err(|e| self.failed(e))?;
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
        .map_err(|e| self.failed(e))?;
        Ok(if written.rows_affected() == 1 { Saved::Written(seen + 1) } else { Saved::Newer })
    }

    /// Writes a new sign-in, whatever was there; the faults of the former one are void. Both at once: nobody
    /// sees the new one with the old one's fault, or writes that in between.
    pub async fn replace_token(&self, principal: &str, token: &Token) -> Result<(), StoreError> {
        let sealed = self.sealed(principal, token)?;
        let replaced = async {
            let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            sqlx::query("DELETE FROM fault WHERE principal = ?")
                .bind(principal)
                .execute(&mut *transaction)
                .await?;
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
        replaced.await.map_err(|e| self.failed(e))
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
            .map_err(|e| self.failed(e))?;
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
                fault.write(principal, &mut transaction).await?;
            }
            transaction.commit().await?;
            Ok(deleted > 0)
        };
        deleted.await.map_err(|e| self.failed(e))
    }

    /// Notes why the last renewal of the token of revision `seen` failed, for `gatepost status`; not if
    /// somebody has signed in or out meanwhile. A principal that never had a token (0) is noted too. Whether
    /// this is the first news that a person must act.
    pub async fn note_fault(
        &self,
        principal: &str,
        seen: i64,
        fault: &TokenFault,
    ) -> Result<bool, StoreError> {
        let noted = async {
            let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            let revision: Option<i64> =
                sqlx::query_scalar("SELECT revision FROM token WHERE principal = ?")
                    .bind(principal)
                    .fetch_optional(&mut *transaction)
                    .await?;
            if revision.unwrap_or(0) != seen {
                return Ok(false);
            }
            let former: Option<i64> =
                sqlx::query_scalar("SELECT permanent FROM fault WHERE principal = ?")
                    .bind(principal)
                    .fetch_optional(&mut *transaction)
                    .await?;
            fault.write(principal, &mut transaction).await?;
            transaction.commit().await?;
            Ok(fault.cause.is_some() && former.is_none_or(|number| cause_of(number).is_none()))
        };
        noted.await.map_err(|e| self.failed(e))
    }

    /// The last renewal went well.
    pub async fn clear_fault(&self, principal: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM fault WHERE principal = ?")
            .bind(principal)
            .execute(&self.pool)
            .await
            .map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// Why the last renewal of `principal` failed, if it did.
    pub async fn fault(&self, principal: &str) -> Result<Option<TokenFault>, StoreError> {
        let row =
            sqlx::query("SELECT error, permanent, error_at, trace FROM fault WHERE principal = ?")
                .bind(principal)
                .fetch_optional(&self.pool)
                .await
                .map_err(|e| self.failed(e))?;
        let read = |row: &SqliteRow| -> Result<TokenFault, sqlx::Error> {
            let at = Timestamp::from_millis(row.try_get("error_at")?);
            let cause = cause_of(row.try_get("permanent")?);
            let (error, trace) = (row.try_get("error")?, row.try_get("trace")?);
            Ok(TokenFault { error, cause, trace, at })
        };
        row.as_ref().map(read).transpose().map_err(|e| self.failed(e))
    }

    /// Whether `about` is told of `subject` for the first time, in all processes' lives.
    pub async fn tell_once(&self, subject: &str, about: &str) -> Result<bool, StoreError> {
        let told = sqlx::query("INSERT OR IGNORE INTO notice (subject, about) VALUES (?, ?)")
            .bind(subject)
            .bind(about)
            .execute(&self.pool)
            .await
            .map_err(|e| self.failed(e))?;
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
        query.execute(&self.pool).await.map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// The sign-in on another device that is under way. One that is damaged is none.
    pub async fn device(&self, principal: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let sealed: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT sealed FROM device WHERE principal = ?")
                .bind(principal)
                .fetch_optional(&self.pool)
                .await
                .map_err(|e| self.failed(e))?;
        Ok(sealed.and_then(|sealed| self.seal.open_sealed(&sealed, &device_name(principal))))
    }
}

impl TokenFault {
    async fn write(
        &self,
        principal: &str,
        transaction: &mut Transaction<'_, Sqlite>,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO fault (principal, error, permanent, error_at, trace)
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (principal) DO UPDATE
             SET error = ?2, permanent = ?3, error_at = ?4, trace = ?5",
        )
        .bind(principal)
        .bind(&self.error)
        .bind(number_of(self.cause))
        .bind(self.at.as_millis())
        .bind(&self.trace)
        .execute(&mut **transaction)
        .await
        .map(drop)
    }
}

/// What a device's code is sealed for: not the name that a token is sealed for.
fn device_name(principal: &str) -> String {
    format!("device {principal}")
}

/// In the column `permanent`; 1 was the only one before the two were told apart.
fn number_of(cause: Option<Cause>) -> i64 {
    match cause {
        None => 0,
        Some(Cause::Registration) => 1,
        Some(Cause::SignIn) => 2,
    }
}

fn cause_of(number: i64) -> Option<Cause> {
    match number {
        0 => None,
        2 => Some(Cause::SignIn),
        _ => Some(Cause::Registration),
    }
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
        Token { refresh_token, access }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(refresh: &str) -> Token {
        Token { refresh_token: Some(Secret::new(refresh.to_owned())), access: None }
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
    async fn the_fault_of_a_former_sign_in_is_not_the_new_ones() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        let fault = TokenFault {
            error: "revoked".into(),
            cause: Some(Cause::SignIn),
            trace: String::new(),
            at: Timestamp::from_millis(1000),
        };
        assert!(store.note_fault("jane", 0, &fault).await.unwrap());
        store.replace_token("jane", &token("one")).await.unwrap();
        assert_eq!(store.fault("jane").await.unwrap(), None);
        assert!(store.note_fault("jane", 1, &fault).await.unwrap());
        assert!(!store.note_fault("jane", 1, &fault).await.unwrap(), "it is known");
        store.replace_token("jane", &token("two")).await.unwrap();
        // A renewal of the first one comes to its end.
        assert!(!store.note_fault("jane", 1, &fault).await.unwrap());
        assert_eq!(store.fault("jane").await.unwrap(), None);
        assert!(store.note_fault("jane", 2, &fault).await.unwrap());
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
