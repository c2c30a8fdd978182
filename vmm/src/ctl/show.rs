//! What the answers to queries say, as tables for people.

use serde_json::{Value, json};

use super::{
    client::{Client, number, text},
    error::CtlError,
    progress::Figures,
    table::table,
};
use crate::monitor::human_size;

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// What `query-block-jobs` says.
pub(super) fn jobs(jobs: &Value) -> String {
    let jobs = jobs.as_array().map_or(&[][..], Vec::as_slice);
    if jobs.is_empty() {
        return "no jobs\n".to_owned();
    }
    let mut rows = vec![row([
        "JOB", "KIND", "STATUS", "COPIED", "RATE", "LEFT", "LIMIT",
    ])];
    for job in jobs {
        let limit = match number(job, "speed") {
            0 => "-".to_owned(),
            speed => format!("{}/s", human_size(speed)),
        };
        let status = match (
            text(job, "status"),
            text(job, "x-phase"),
            text(job, "error"),
        ) {
            (status, _, error) if !error.is_empty() => format!("{status}: {error}"),
            ("running", phase, _) if !phase.is_empty() => phase.replace('-', " "),
            (status, ..) => status.to_owned(),
        };
        let figures = Figures::of(job);
        rows.push(vec![
            text(job, "device").to_owned(),
            text(job, "type").to_owned(),
            status,
            figures.bytes(),
            format!("{}/s", human_size(figures.rate)),
            figures.left().unwrap_or_else(|| "-".to_owned()),
            limit,
        ]);
    }
    table(&rows, &[])
}

/// What `status` shows.
pub(super) struct Status {
    state: String,
    version: String,
    disks: Value,
    jobs: Value,
}

impl Status {
    /// Asks for all of it.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn ask(client: &mut Client) -> Result<Self, CtlError> {
        let status = client.execute("query-status", json!({}))?;
        let version = client.execute("query-version", json!({}))?;
        Ok(Self {
            state: text(&status, "status").to_owned(),
            version: text(&version, "package").to_owned(),
            disks: client.execute("query-block", json!({}))?,
            jobs: client.execute("query-block-jobs", json!({}))?,
        })
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let Self {
            state,
            version,
            disks,
            jobs,
        } = self;
        json!({"status": state, "version": version, "disks": disks, "jobs": jobs})
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut rows = vec![row(["DISK", "SIZE", "LAYERS", "TOP"])];
        for disk in self.disks.as_array().into_iter().flatten() {
            let top = &disk["inserted"];
            let name = text(disk, "device").to_owned();
            if top.is_null() {
                rows.push(vec![name, "-".into(), "-".into(), "no medium".into()]);
                continue;
            }
            let read_only = match top["ro"].as_bool() {
                Some(true) => ", read-only",
                _ => "",
            };
            let failed = match text(disk, "io-status") {
                "" | "ok" => String::new(),
                status => format!(", I/O status: {status}"),
            };
            let (file, format) = (text(top, "file"), text(top, "drv"));
            rows.push(vec![
                name,
                human_size(number(&top["image"], "virtual-size")),
                (number(top, "backing_file_depth") + 1).to_string(),
                format!("{file} ({format}{read_only}){failed}"),
            ]);
        }
        let disks = match rows.len() {
            1 => "no disks\n".to_owned(),
            _ => table(&rows, &[1, 2]),
        };
        let (state, version) = (&self.state, &self.version);
        format!("{state} ({version})\n\n{disks}\n{}", jobs(&self.jobs))
    }
}
