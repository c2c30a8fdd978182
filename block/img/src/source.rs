//! Internal snapshots as what a command reads (`-l`).

use strata_format::qcow2::Snapshot;
use strata_graph::Node;

use crate::Failure;

/// Which snapshot: `ID_OR_NAME`, or `snapshot.id=ID,snapshot.name=NAME` with one of the two or
/// both.
#[derive(Debug, Clone, Default)]
pub struct SnapshotParam {
    either: Option<String>,
    id: Option<String>,
    name: Option<String>,
}

impl SnapshotParam {
    /// Reads the value of `-l`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut param = Self::default();
        if !text.starts_with("snapshot.") {
            param.either = Some(text.to_owned());
            return Ok(param);
        }
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("snapshot.id", id)) => param.id = Some(id.to_owned()),
                Some(("snapshot.name", name)) => param.name = Some(name.to_owned()),
                _ => return Err(format!("Failed in parsing snapshot param '{text}'")),
            }
        }
        Ok(param)
    }

    /// Makes `node`, just opened, show the snapshot.
    pub async fn show(&self, node: &Node) -> Result<(), Failure> {
        let failed = |why: String| Failure::new(format!("Failed to load snapshot: {why}"));
        let Some(image) = node.image().as_qcow2() else {
            let format = node.format();
            return Err(failed(format!(
                "Block format '{format}' used by device '' does not support temporarily loading internal snapshots"
            )));
        };
        let snapshots = image.snapshots().await?;
        let found = self.find(&snapshots);
        let snapshot = found.ok_or_else(|| failed("Can't find snapshot".into()))?;
        let shown = image.show_snapshot(snapshot).await;
        shown.map_err(|error| failed(error.to_string()))
    }

    fn find<'a>(&self, snapshots: &'a [Snapshot]) -> Option<&'a Snapshot> {
        if let Some(text) = &self.either {
            let by_id = snapshots.iter().find(|snapshot| snapshot.id == *text);
            return by_id.or_else(|| snapshots.iter().find(|snapshot| snapshot.name == *text));
        }
        let fits = |wanted: &Option<String>, found: &String| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        snapshots
            .iter()
            .find(|snapshot| fits(&self.id, &snapshot.id) && fits(&self.name, &snapshot.name))
    }
}
