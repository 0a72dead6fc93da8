//! What the commands that list, and those that may say why, share.

use clap::Args;
use serde::{Serialize, de::DeserializeOwned};

use super::{exit::Failure, output::Output, remote::Connection};

/// `--limit` and how to print, for every `list` over the API.
#[derive(Debug, Args)]
pub struct Listing {
    /// At most this many [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl Listing {
    /// Gets all pages of `path` under `filters` and prints them.
    ///
    /// # Errors
    /// By what the controller answers.
    pub fn run<T: Serialize + DeserializeOwned>(
        self,
        path: &str,
        filters: &[(&'static str, Option<String>)],
        table: impl FnOnce(&[T]) -> String,
    ) -> Result<(), Failure> {
        let items: Vec<T> = self.connection.open()?.list(path, filters, self.limit)?;
        self.output.print(&items, |items| table(items))
    }
}

/// A word of a closed vocabulary, or all that it could have been.
///
/// # Errors
/// The words there are.
pub fn one_of<T: Copy>(
    text: &str,
    all: &[T],
    from_word: fn(&str) -> Option<T>,
    word: fn(T) -> &'static str,
) -> Result<T, String> {
    from_word(text).ok_or_else(|| {
        let known: Vec<_> = all.iter().map(|it| word(*it)).collect();
        format!("expected one of {}", known.join(", "))
    })
}
