//! What has been written to the store, by whichever process: each write leaves the number of its change behind, by a
//! trigger, so that nobody has to look at all rows to find the few that are new.
//!
//! Invariant: a row that was written since has a higher number than any of before.

use sqlx::Row;

use super::{Store, StoreError};

/// Up to where the changes are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How often the store has come back, maybe as another file.
    returns: i64,
    number: i64,
}

/// What was written since.
#[derive(Debug)]
pub struct News {
    /// Up to now.
    pub seen: Seen,
    /// The principals whose tokens were written, with their revisions (0: there is no such row any more); none: it is
    /// another store, or an older one, and all may be others.
    pub tokens: Option<Vec<(String, i64)>>,
}

impl Store {
    /// Which tokens were written since; with nothing seen before, that is none that could be named.
    pub async fn news(&self, since: Option<Seen>) -> Result<News, StoreError> {
        let seen = self.seen("SELECT coalesce(max(number), 0) FROM change").await?;
        let since = since.filter(|since| since.returns == seen.returns);
        let Some(since) = since.filter(|since| since.number <= seen.number) else {
            return Ok(News { seen, tokens: None });
        };
        if since == seen {
            return Ok(News { seen, tokens: Some(Vec::new()) });
        }
        // What is written between the two questions is told once more by the next.
        let rows = sqlx::query(
            "SELECT change.name, coalesce(token.revision, 0) AS revision FROM change
             LEFT JOIN token ON token.principal = change.name
             WHERE change.number > ? AND change.kind = 'token'",
        )
        .bind(since.number)
        .fetch_all(&self.pool)
        .await
        .map_err(|e| self.failed(&e))?;
        let rows = rows.iter().map(|row| Ok((row.try_get("name")?, row.try_get("revision")?)));
        let tokens = rows.collect::<Result<_, _>>().map_err(|e| self.failed(&e))?;
        Ok(News { seen, tokens: Some(tokens) })
    }

    /// Differs when the app passwords may.
    pub async fn passwords_seen(&self) -> Result<Seen, StoreError> {
        self.seen("SELECT coalesce(max(number), 0) FROM change WHERE kind = 'password'").await
    }

    async fn seen(&self, query: &'static str) -> Result<Seen, StoreError> {
        let returns = self.health.returns();
        let number = sqlx::query_scalar(query).fetch_one(&self.pool).await;
        Ok(Seen { returns, number: number.map_err(|e| self.failed(&e))? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::secret::Secret;
    use crate::store::{Hash, PasswordRecord, Token};

    fn token(refresh: &str) -> Token {
        Token { refresh_token: Some(Secret::new(refresh.to_owned())), ..Token::default() }
    }

    fn sorted(tokens: Option<Vec<(String, i64)>>) -> Vec<(String, i64)> {
        let mut tokens = tokens.unwrap();
        tokens.sort();
        tokens
    }

    #[tokio::test]
    async fn each_write_is_told_once_with_its_last_revision() {
        let folder = tempfile::tempdir().unwrap();
        let proxy = Store::open(folder.path(), None).await.unwrap();
        let command = Store::open(folder.path(), None).await.unwrap();
        let first = proxy.news(None).await.unwrap();
        assert!(first.tokens.is_none());
        command.replace_token("jane", &token("one")).await.unwrap();
        command.replace_token("john", &token("one")).await.unwrap();
        command.replace_token("jane", &token("two")).await.unwrap();
        let News { seen, tokens } = proxy.news(Some(first.seen)).await.unwrap();
        assert_eq!(sorted(tokens), [("jane".into(), 2), ("john".into(), 1)]);
        assert_eq!(proxy.news(Some(seen)).await.unwrap().tokens, Some(Vec::new()));
        command.delete_token("john", None).await.unwrap();
        sqlx::query("DELETE FROM token WHERE principal = 'jane'")
            .execute(&command.pool)
            .await
            .unwrap();
        let tokens = proxy.news(Some(seen)).await.unwrap().tokens;
        assert_eq!(sorted(tokens), [("jane".into(), 0), ("john".into(), 2)]);
    }

    #[tokio::test]
    async fn passwords_and_tokens_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), None).await.unwrap();
        let record = |name: &str| PasswordRecord {
            mailbox: "jane".into(),
            name: name.into(),
            hash: Hash::Generated(vec![1]),
            protocols: Vec::new(),
            networks: Vec::new(),
            created_at: Timestamp::from_millis(7),
        };
        let none = store.passwords_seen().await.unwrap();
        store.replace_token("jane", &token("one")).await.unwrap();
        assert_eq!(store.passwords_seen().await.unwrap(), none);
        let mut seen = vec![none];
        // An insertion that may be in vain is one as well (SQLite has a trigger go by the statement's own conflict rule).
        for name in ["one", "two"] {
            assert!(store.add_password(&record(name)).await.unwrap());
            seen.push(store.passwords_seen().await.unwrap());
        }
        assert!(store.revoke_password("jane", "one").await.unwrap());
        seen.push(store.passwords_seen().await.unwrap());
        assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "{seen:?}");
    }
}
