//! Tables of cases: all of them run, each failure is named, and none is left out unseen.

use tokio::task::JoinError;

/// The outcome of a table.
#[derive(Default)]
pub struct Cells {
    run: usize,
    failed: Vec<String>,
}

impl Cells {
    /// Runs one case; a panic in it fails it, and the others go on.
    pub async fn run(&mut self, name: String, case: impl Future<Output = ()> + Send + 'static) {
        self.run += 1;
        if let Err(error) = tokio::spawn(case).await {
            self.failed.push(format!("{name}: {}", reason(error)));
        }
    }

    /// Fails if any case has, or if their number is not the one that the table should have.
    pub fn finish(self, expected: usize) {
        let Self { run, failed } = self;
        assert!(failed.is_empty(), "{} of {run} failed:\n{}", failed.len(), failed.join("\n"));
        assert_eq!(run, expected, "cells");
    }
}

fn reason(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(text), _) => text.clone(),
            (_, Some(text)) => (*text).to_owned(),
            _ => "a panic".to_owned(),
        },
        Err(error) => error.to_string(),
    }
}
