//! A child process that obeys lines: one JSON line on standard output for each line on its standard input.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// A running role; killed when dropped.
pub struct Role {
    name: String,
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Role {
    /// Starts this same program in another role; its standard error is ours.
    pub fn start(name: &str, args: &[String]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let orders = child.stdin.take().context("no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { name: name.to_owned(), child, orders, answers })
    }

    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().with_context(|| format!("{} has ended", self.name))
    }

    /// Waits for the next answer.
    pub async fn answer<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let line = self.answers.next_line().await?.with_context(|| format!("{} ended", self.name))?;
        let value: serde_json::Value = serde_json::from_str(&line).with_context(|| format!("{}: {line}", self.name))?;
        ensure!(value.get("error").is_none(), "{}: {value}", self.name);
        Ok(serde_json::from_value(value)?)
    }

    /// Sends a line and waits for its answer.
    pub async fn ask<T: DeserializeOwned>(&mut self, line: &str) -> anyhow::Result<T> {
        self.orders.write_all(format!("{line}\n").as_bytes()).await?;
        self.orders.flush().await?;
        self.answer().await.with_context(|| format!("asking {} for {line:?}", self.name))
    }
}
