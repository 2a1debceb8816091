//! Why tokens can't be renewed, in the store.
//!
//! Invariant: a fault is of the sign-in that is there: with a new one, those of the former are gone.

use std::collections::HashMap;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};

use super::{Store, StoreError, tokens};
use crate::clock::Timestamp;
use crate::vocabulary::{Cause, Resource};

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

impl Store {
    /// Notes why the last renewal of the token for `resource`, of revision `seen`, failed, for `gatepost status`;
    /// not if somebody has signed in or out meanwhile. A principal that never had a token (0) is noted too. Whether
    /// this is the first news that a person must act.
    pub async fn note_fault(
        &self,
        principal: &str,
        resource: Resource,
        seen: i64,
        fault: &TokenFault,
    ) -> Result<bool, StoreError> {
        self.may_write()?;
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
            let name = fault_name(principal, resource);
            let former: Option<i64> =
                sqlx::query_scalar("SELECT permanent FROM fault WHERE principal = ?")
                    .bind(&name)
                    .fetch_optional(&mut *transaction)
                    .await?;
            fault.write(&name, &mut transaction).await?;
            transaction.commit().await?;
            Ok(fault.cause.is_some() && former.is_none_or(|number| cause_of(number).is_none()))
        };
        noted.await.map_err(|e| self.failed(&e))
    }

    /// The last renewal of the token for `resource` went well.
    pub async fn clear_fault(&self, principal: &str, resource: Resource) -> Result<(), StoreError> {
        self.may_write()?;
        sqlx::query("DELETE FROM fault WHERE principal = ?")
            .bind(fault_name(principal, resource))
            .execute(&self.pool)
            .await
            .map_err(|e| self.failed(&e))?;
        Ok(())
    }

    /// Why the last renewal of the token of `principal` for `resource` failed, if it did.
    pub async fn fault(
        &self,
        principal: &str,
        resource: Resource,
    ) -> Result<Option<TokenFault>, StoreError> {
        let row =
            sqlx::query("SELECT error, permanent, error_at, trace FROM fault WHERE principal = ?")
                .bind(fault_name(principal, resource))
                .fetch_optional(&self.pool)
                .await
                .map_err(|e| self.failed(&e))?;
        row.as_ref().map(read).transpose().map_err(|e| self.failed(&e))
    }

    /// The same of many at once, by the names of those whose renewal has failed.
    pub async fn faults(
        &self,
        principals: &[String],
        resource: Resource,
    ) -> Result<HashMap<String, TokenFault>, StoreError> {
        let kept: Vec<_> = principals.iter().map(|name| fault_name(name, resource)).collect();
        let rows = sqlx::query(
            "SELECT principal, error, permanent, error_at, trace FROM fault
             WHERE principal IN (SELECT value FROM json_each(?))",
        )
        .bind(tokens::names(&kept))
        .fetch_all(&self.pool)
        .await
        .map_err(|e| self.failed(&e))?;
        let named = |row: &SqliteRow| {
            let kept: &str = row.try_get("principal")?;
            let principal = kept.split('\n').next().unwrap_or_default().to_owned();
            Ok((principal, read(row)?))
        };
        rows.iter().map(named).collect::<Result<_, _>>().map_err(|e| self.failed(&e))
    }
}

fn read(row: &SqliteRow) -> Result<TokenFault, sqlx::Error> {
    let at = Timestamp::from_millis(row.try_get("error_at")?);
    let cause = cause_of(row.try_get("permanent")?);
    let (error, trace) = (row.try_get("error")?, row.try_get("trace")?);
    Ok(TokenFault { error, cause, trace, at })
}

impl TokenFault {
    pub(super) async fn write(
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

/// What a fault is kept under. No principal's name has a control character.
fn fault_name(principal: &str, resource: Resource) -> String {
    match resource {
        Resource::Mail => principal.to_owned(),
        Resource::Graph => format!("{principal}\ngraph"),
    }
}

/// Those of all resources: they are of a sign-in that is no more.
pub(super) async fn delete(
    principal: &str,
    transaction: &mut Transaction<'_, Sqlite>,
) -> Result<(), sqlx::Error> {
    for resource in Resource::ALL {
        sqlx::query("DELETE FROM fault WHERE principal = ?")
            .bind(fault_name(principal, resource))
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use crate::store::{StoredToken, Token};

    fn token(refresh: &str) -> Token {
        Token { refresh_token: Some(Secret::new(refresh.to_owned())), ..Token::default() }
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
        assert!(store.note_fault("jane", Resource::Mail, 0, &fault).await.unwrap());
        store.replace_token("jane", &token("one")).await.unwrap();
        assert_eq!(store.fault("jane", Resource::Mail).await.unwrap(), None);
        assert!(store.note_fault("jane", Resource::Mail, 1, &fault).await.unwrap());
        assert!(!store.note_fault("jane", Resource::Mail, 1, &fault).await.unwrap(), "it is known");
        store.replace_token("jane", &token("two")).await.unwrap();
        // A renewal of the first one comes to its end.
        assert!(!store.note_fault("jane", Resource::Mail, 1, &fault).await.unwrap());
        assert_eq!(store.fault("jane", Resource::Mail).await.unwrap(), None);
        assert!(store.note_fault("jane", Resource::Mail, 2, &fault).await.unwrap());
    }

    #[tokio::test]
    async fn each_resource_has_a_token_and_a_fault_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        let at = Timestamp::from_millis(1000);
        let graph = StoredToken {
            token: Secret::new("graph".into()),
            issued_at: at,
            expires_at: at.plus(std::time::Duration::from_secs(60)),
            refresh_at: None,
            fingerprint: "scopes".into(),
        };
        let both = Token { graph: Some(graph), ..token("one") };
        store.replace_token("jane", &both).await.unwrap();
        assert_eq!(store.token("jane").await.unwrap(), (Some(both), 1));
        let fault = TokenFault {
            error: "no consent".into(),
            cause: Some(Cause::SignIn),
            trace: String::new(),
            at,
        };
        assert!(store.note_fault("jane", Resource::Graph, 1, &fault).await.unwrap());
        assert_eq!(store.fault("jane", Resource::Mail).await.unwrap(), None);
        store.clear_fault("jane", Resource::Mail).await.unwrap();
        assert_eq!(store.fault("jane", Resource::Graph).await.unwrap(), Some(fault.clone()));
        store.replace_token("jane", &token("two")).await.unwrap();
        assert_eq!(store.fault("jane", Resource::Graph).await.unwrap(), None);
        assert!(store.note_fault("jane", Resource::Graph, 2, &fault).await.unwrap());
        store.delete_token("jane", Some(&fault)).await.unwrap();
        assert_eq!(store.fault("jane", Resource::Graph).await.unwrap(), None);
        assert_eq!(store.fault("jane", Resource::Mail).await.unwrap(), Some(fault));
    }
}
