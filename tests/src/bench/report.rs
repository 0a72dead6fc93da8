//! The results, as an object and as a table.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{clients::Measured, product::Engine};

/// One engine's ingest: medians of the rounds.
#[derive(Clone, Debug)]
pub struct Ingest {
    pub reports_per_s: f64,
    pub raw_rows_per_s: f64,
    pub bare_per_s: f64,
    pub ack_p50_ms: f64,
    pub ack_p99_ms: f64,
    pub ack_mean_ms: f64,
    pub cpu_us_per_report: f64,
}

/// Memory at one number of idle devices.
#[derive(Clone, Debug)]
pub struct Memory {
    pub devices: usize,
    pub bytes_per_device: f64,
    pub bare_bytes_per_stream: f64,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Results {
    ingest: Vec<(Engine, Ingest)>,
    pub memory: Vec<Memory>,
    pub command: Option<Measured>,
    pub report_to_order: Option<Measured>,
}

fn rounded(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

impl Results {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn ingest(&mut self, engine: Engine, measured: Ingest) {
        self.ingest.push((engine, measured));
    }

    pub fn json(&self) -> Value {
        let ingest: serde_json::Map<_, _> = self
            .ingest
            .iter()
            .map(|(engine, it)| {
                let value = json!({
                    "reports_per_s": rounded(it.reports_per_s),
                    "raw_rows_per_s": rounded(it.raw_rows_per_s),
                    "bare_per_s": rounded(it.bare_per_s),
                    "ratio_raw": rounded(it.reports_per_s / it.raw_rows_per_s),
                    "ratio_bare": rounded(it.reports_per_s / it.bare_per_s),
                    "ack_p50_ms": rounded(it.ack_p50_ms),
                    "ack_p99_ms": rounded(it.ack_p99_ms),
                    "ack_mean_ms": rounded(it.ack_mean_ms),
                    "cpu_us_per_report": rounded(it.cpu_us_per_report),
                });
                (engine.to_string(), value)
            })
            .collect();
        let latency = |it: &Option<Measured>| {
            it.as_ref().map(|it| json!({"p50_ms": rounded(it.p50_ms), "p99_ms": rounded(it.p99_ms), "count": it.count}))
        };
        let memory: Vec<_> = self
            .memory
            .iter()
            .map(|it| {
                json!({
                    "devices": it.devices,
                    "bytes_per_device": rounded(it.bytes_per_device),
                    "bare_bytes_per_stream": rounded(it.bare_bytes_per_stream),
                    "ratio": rounded(it.bytes_per_device / it.bare_bytes_per_stream),
                })
            })
            .collect();
        json!({
            "ingest": ingest,
            "command": latency(&self.command),
            "report_to_order": latency(&self.report_to_order),
            "memory": memory,
            "machine": {
                "cores": std::thread::available_parallelism().map_or(0, usize::from),
                "durability": "SQLite WAL synchronous=FULL; PostgreSQL fsync=on synchronous_commit=on",
                "load_generator": "on the same cores, separate process",
                "reports": "one outcome each, always of the same update and a code for people, under the posture observe: \
                            no orders beside it",
                "raw": "one connection, transactions of 500 rows",
                "cpu": "of the controller's process; PostgreSQL's own is not in it",
            },
        })
    }

    pub fn table(&self) -> String {
        let mut text = String::new();
        for (engine, it) in &self.ingest {
            let _ = writeln!(
                text,
                "ingest {engine:<9} {:>9.0} reports/s   raw {:>9.0} rows/s (x {:.2})   bare {:>9.0}/s (x {:.2})   \
                 ack p50 {:.1} ms, p99 {:.1} ms, mean {:.1} ms   {:.0} us of the controller's CPU a report",
                it.reports_per_s,
                it.raw_rows_per_s,
                it.reports_per_s / it.raw_rows_per_s,
                it.bare_per_s,
                it.reports_per_s / it.bare_per_s,
                it.ack_p50_ms,
                it.ack_p99_ms,
                it.ack_mean_ms,
                it.cpu_us_per_report
            );
        }
        for (name, it) in [("command", &self.command), ("report to order", &self.report_to_order)] {
            if let Some(it) = it {
                let _ = writeln!(
                    text,
                    "{name:<16} p50 {:.2} ms, p99 {:.2} ms ({} measured)",
                    it.p50_ms, it.p99_ms, it.count
                );
            }
        }
        for it in &self.memory {
            let ratio = it.bytes_per_device / it.bare_bytes_per_stream;
            let _ = writeln!(
                text,
                "memory at {:>6} idle devices: {:.0} bytes a device, bare {:.0} a stream (x {ratio:.2})",
                it.devices, it.bytes_per_device, it.bare_bytes_per_stream
            );
        }
        text.push_str("Load generator on the same cores; only the ratios count. Medians of the rounds.\n");
        text
    }
}
