//! `jetway snapshot status`: reports on a snapshot's file, in the forms of `etcdutl snapshot status`.

use super::super::command::help;
use super::super::commands::Environment;
use super::super::flag_values::{aws, texts};
use super::super::runtime::{RuntimeError, block_on};
use crate::snapshot::{FileError, Report, S3, S3Error, S3UrlError, StatusError, download, is_url, report};
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;
use std::fs::File;
use std::path::PathBuf;
use thiserror::Error;

pub(super) const NAME: &str = "status";

/// A snapshot that cannot be reported on.
#[derive(Debug, Error)]
pub(in crate::cli) enum StatusCommandError {
    #[error("{file}: {reason}")]
    Url { file: String, reason: S3UrlError },
    #[error(transparent)]
    S3(#[from] S3Error),
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

pub(super) fn command() -> Command {
    let forms = PossibleValuesParser::new(["simple", "table", "json", "fields"]);
    let form = Arg::new("write-out").long("write-out").short('w').alias("w").value_name("FORM");
    Command::new(NAME)
        .about("Check the file of a snapshot, and report its content")
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .help("The file of the snapshot, or s3://BUCKET/NAME"),
        )
        .arg(form.value_parser(forms).default_value("simple").help("The form of the report"))
        .arg(help(ArgAction::HelpShort))
}

/// Returns the report.
///
/// # Errors
/// [`StatusCommandError`].
pub(super) fn run(matches: &ArgMatches, environment: &Environment) -> Result<String, StatusCommandError> {
    let file = matches.get_one::<String>("file").expect("clap requires it");
    let (opened, path) = open(file, environment)?;
    let report = report(opened, &path)?;
    let Report { hash, revision, keys, size, version, .. } = &report;
    Ok(match matches.get_one::<String>("write-out").map(String::as_str) {
        Some("json") => {
            // The order of the fields is etcdutl's.
            let version = json!(version);
            format!(
                "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{keys},\"totalSize\":{size},\
                 \"version\":{version}}}\n"
            )
        }
        Some("fields") => format!(
            "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {keys}\n\"Size\" : {size}\n\"Version\" : {version}\n"
        ),
        Some("table") => table(["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"], &cells(&report)),
        _ => cells(&report).join(", ") + "\n",
    })
}

/// Opens a file, or downloads an object.
fn open(file: &str, environment: &Environment) -> Result<(File, PathBuf), StatusCommandError> {
    if !is_url(file) {
        let opened = File::open(file).map_err(|source| FileError::Io { path: file.into(), source });
        return Ok((opened.map_err(StatusError::from)?, file.into()));
    }
    let object = S3::object(file, &aws(&texts(environment.iter().cloned())));
    let object = object.map_err(|reason| StatusCommandError::Url { file: file.to_owned(), reason })?;
    Ok(block_on(download(&object))??)
}

fn cells(report: &Report) -> [String; 5] {
    [
        format!("{:x}", report.hash),
        report.revision.to_string(),
        report.keys.to_string(),
        human(report.size),
        report.version.clone(),
    ]
}

/// A size in units of 1000, with a digit behind the point below ten.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut at = 0;
    while bytes / 1000_u64.pow(at as u32) >= 1000 {
        at += 1;
    }
    let unit = u128::from(1000_u64.pow(at as u32));
    let tenths = (u128::from(bytes) * 10 + unit / 2) / unit;
    if tenths < 100 && at > 0 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[at])
    } else {
        // etcdutl rounds the rounded number again, half to even.
        let whole = tenths / 10;
        let up = tenths % 10 > 5 || tenths % 10 == 5 && whole % 2 == 1;
        format!("{} {}", whole + u128::from(up), UNITS[at])
    }
}

/// One row in a frame: the heads centred, the cells on the right.
fn table(heads: [&str; 5], cells: &[String; 5]) -> String {
    let widths: Vec<_> = heads.iter().zip(cells).map(|(head, cell)| head.len().max(cell.len())).collect();
    let line = |left: &str, middle: &str, right: &str| {
        let dashes: Vec<_> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", dashes.join(middle))
    };
    let row = |cells: Vec<String>| format!("│ {} │\n", cells.join(" │ "));
    let centred = heads.iter().zip(&widths).map(|(head, width)| format!("{head:^width$}")).collect();
    let right = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
    [line("┌", "┬", "┐"), row(centred), line("├", "┼", "┤"), row(right), line("└", "┴", "┘")].concat()
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn sizes_are_printed_as_by_etcdutl() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1049, "1.0 kB"),
            (1050, "1.1 kB"),
            (9949, "9.9 kB"),
            (9950, "10 kB"),
            (20_480, "20 kB"),
            (999_999, "1000 kB"),
            (82_854_982, "83 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }
}
