//! From samples to a table.

use crate::load::{Outcome, Timing};
use crate::machine::Facts;
use crate::peer::{Installation, Kind, Peer};
use crate::workload::Workload;
use serde_json::{Value, json};
use std::fmt::{self, Write};
use std::time::Duration;

/// One sample in the numbers that are told.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    rate: f64,
    p50: Duration,
    p99: Duration,
    /// Of all processes of the peer, for one operation.
    server_cpu: Duration,
    client_cpu: Duration,
    rss_mib: f64,
    note: String,
}

/// All samples of a run.
#[derive(Debug)]
pub(crate) struct Report {
    facts: Facts,
    timing: Timing,
    rounds: usize,
    peers: Vec<Description>,
    /// Index of the peer that the others are compared with: etcd, if it takes part.
    base: usize,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Description {
    label: String,
    version: String,
    durability: String,
}

#[derive(Debug)]
struct Row {
    workload: &'static str,
    what: &'static str,
    unit: &'static str,
    /// By peer, then by round.
    samples: Vec<Vec<Sample>>,
}

impl Sample {
    pub(crate) fn new(outcome: Outcome, peak_rss: u64) -> Self {
        let operations = outcome.operations as f64;
        Self {
            rate: operations / outcome.elapsed.as_secs_f64(),
            p50: outcome.latencies.percentile(50.0),
            p99: outcome.latencies.percentile(99.0),
            server_cpu: outcome.server_cpu.div_f64(operations),
            client_cpu: outcome.client_cpu.div_f64(operations),
            rss_mib: peak_rss as f64 / f64::from(1 << 20),
            note: outcome.note,
        }
    }

    /// The mean of the rounds; of memory the peak.
    fn of_rounds(samples: &[Self]) -> Option<Self> {
        let (last, count) = (samples.last()?, samples.len() as u32);
        Some(Self {
            rate: samples.iter().map(|sample| sample.rate).sum::<f64>() / f64::from(count),
            p50: samples.iter().map(|sample| sample.p50).sum::<Duration>() / count,
            p99: samples.iter().map(|sample| sample.p99).sum::<Duration>() / count,
            server_cpu: samples.iter().map(|sample| sample.server_cpu).sum::<Duration>() / count,
            client_cpu: samples.iter().map(|sample| sample.client_cpu).sum::<Duration>() / count,
            rss_mib: samples.iter().map(|sample| sample.rss_mib).fold(0.0, f64::max),
            note: last.note.clone(),
        })
    }

    fn json(&self) -> Value {
        json!({
            "operations_per_second": self.rate,
            "p50_us": micros(self.p50),
            "p99_us": micros(self.p99),
            "server_cpu_us": micros(self.server_cpu),
            "client_cpu_us": micros(self.client_cpu),
            "rss_mib": self.rss_mib,
            "note": self.note,
        })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/s, p50 {} us, p99 {} us, server {} us, client {} us, {} MiB",
            figure(self.rate),
            figure(micros(self.p50)),
            figure(micros(self.p99)),
            figure(micros(self.server_cpu)),
            figure(micros(self.client_cpu)),
            figure(self.rss_mib)
        )?;
        if self.note.is_empty() { Ok(()) } else { write!(f, "; {}", self.note) }
    }
}

impl Report {
    pub(crate) fn new(facts: Facts, timing: Timing, rounds: usize, installations: &[Installation]) -> Self {
        let unknown = |installation: &Installation| Description {
            label: installation.label.clone(),
            version: String::new(),
            durability: String::new(),
        };
        let base = installations.iter().position(|peer| peer.kind == Kind::Etcd).unwrap_or(0);
        Self {
            facts,
            timing,
            rounds,
            peers: installations.iter().map(unknown).collect(),
            base,
            rows: Vec::new(),
        }
    }

    /// Notes what a peer says of itself once it runs.
    pub(crate) fn describe(&mut self, at: usize, peer: &Peer) {
        self.peers[at].version.clone_from(&peer.version);
        self.peers[at].durability.clone_from(&peer.durability);
    }

    pub(crate) fn add(&mut self, workload: &Workload, at: usize, sample: Sample) {
        if self.rows.last().is_none_or(|row| row.workload != workload.name) {
            let samples = vec![Vec::new(); self.peers.len()];
            self.rows.push(Row {
                workload: workload.name,
                what: workload.what,
                unit: workload.unit,
                samples,
            });
        }
        if let Some(row) = self.rows.last_mut() {
            row.samples[at].push(sample);
        }
    }

    pub(crate) fn json(&self) -> Value {
        let facts = &self.facts;
        let peers = self.peers.iter().map(
            |peer| json!({ "name": peer.label, "version": peer.version, "durability": peer.durability }),
        );
        let rows = self.rows.iter().map(|row| {
            let peers = self.peers.iter().zip(&row.samples).map(|(peer, samples)| {
                json!({ "name": peer.label, "rounds": samples.iter().map(Sample::json).collect::<Vec<_>>() })
            });
            json!({ "workload": row.workload, "what": row.what, "unit": row.unit, "peers": peers.collect::<Vec<_>>() })
        });
        json!({
            "machine": {
                "processor": facts.processor,
                "cores": facts.cores,
                "memory_mib": facts.memory_mib,
                "kernel": facts.kernel,
                "file_system": facts.file_system,
                "fsync_p50_us": micros(facts.fsync_p50),
                "fsync_p99_us": micros(facts.fsync_p99),
                "load_before": facts.load,
            },
            "seconds": self.timing.sample.as_secs_f64(),
            "warm_up_seconds": self.timing.warm_up.as_secs_f64(),
            "rounds": self.rounds,
            "peers": peers.collect::<Vec<_>>(),
            "workloads": rows.collect::<Vec<_>>(),
        })
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        self.write_markdown(&mut text).expect("a String takes all that is written");
        text
    }

    fn write_markdown(&self, text: &mut String) -> fmt::Result {
        let facts = &self.facts;
        writeln!(
            text,
            "{}, {} cores, {} MiB, Linux {}, {}; an append of 1 KiB with fsync takes {} us (p99 {} us); load {} before the run.",
            facts.processor,
            facts.cores,
            facts.memory_mib,
            facts.kernel,
            facts.file_system,
            figure(micros(facts.fsync_p50)),
            figure(micros(facts.fsync_p99)),
            facts.load
        )?;
        writeln!(
            text,
            "{} rounds of {} s after {} s of warm-up, a fresh server for each; client and server on the same cores.\n",
            self.rounds,
            self.timing.sample.as_secs_f64(),
            self.timing.warm_up.as_secs_f64()
        )?;
        for peer in &self.peers {
            writeln!(text, "- {} {}: {}", peer.label, peer.version, peer.durability)?;
        }
        writeln!(
            text,
            "\nIn parentheses the ratio to {}. CPU is user and system time an operation.\n",
            self.peers[self.base].label
        )?;
        writeln!(
            text,
            "| workload | peer | operations/s | spread | p50 us | p99 us | server CPU us | RSS MiB | client CPU us |"
        )?;
        writeln!(text, "|---|---|--:|--:|--:|--:|--:|--:|--:|")?;
        for row in &self.rows {
            let base = Sample::of_rounds(&row.samples[self.base]);
            for (at, (peer, samples)) in self.peers.iter().zip(&row.samples).enumerate() {
                let (Some(sample), Some(base)) = (Sample::of_rounds(samples), &base) else { continue };
                let cell = |of: fn(&Sample) -> f64| {
                    let shown = figure(of(&sample));
                    if at == self.base { shown } else { format!("{shown} ({:.2})", of(&sample) / of(base)) }
                };
                writeln!(
                    text,
                    "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    if at == 0 { row.workload } else { "" },
                    peer.label,
                    cell(|sample| sample.rate),
                    spread(samples),
                    cell(|sample| micros(sample.p50)),
                    cell(|sample| micros(sample.p99)),
                    cell(|sample| micros(sample.server_cpu)),
                    cell(|sample| sample.rss_mib),
                    figure(micros(sample.client_cpu)),
                )?;
            }
        }
        writeln!(text)?;
        for row in &self.rows {
            let notes: Vec<String> = self
                .peers
                .iter()
                .zip(&row.samples)
                .filter_map(|(peer, samples)| Some((&peer.label, &samples.last()?.note)))
                .filter(|(_, note)| !note.is_empty())
                .map(|(label, note)| format!("{label} {note}"))
                .collect();
            let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
            writeln!(text, "- `{}`: {}; an operation is one {}{notes}", row.workload, row.what, row.unit)?;
        }
        Ok(())
    }
}

/// How far the rounds lie apart: from the slowest to the fastest, in percent of the slowest.
fn spread(samples: &[Sample]) -> String {
    if samples.len() < 2 {
        return "-".into();
    }
    let rates = || samples.iter().map(|sample| sample.rate);
    let (least, most) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
    format!("{:.0} %", 100.0 * (most - least) / least)
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// Three digits that say something, or the whole number.
fn figure(number: f64) -> String {
    match number {
        n if n < 10.0 => format!("{n:.2}"),
        n if n < 100.0 => format!("{n:.1}"),
        n => format!("{n:.0}"),
    }
}
