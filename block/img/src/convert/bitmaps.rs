//! Copying persistent dirty bitmaps (`--bitmaps`).

use std::rc::Rc;

use strata_format::bitmap::DirtyBitmap;
use strata_graph::{
    Node,
    bitmaps::{BitmapChange, BitmapPlan},
};

use crate::{Failure, refuse_bad_bitmaps};

/// Whether the bitmaps of `source` can be copied; with `skip` those that are out of date do not
/// matter.
pub fn check(source: &Node, skip: bool) -> Result<(), Failure> {
    if !has_bitmaps(source) {
        return Err(Failure::new("Source lacks bitmap support"));
    }
    if !skip {
        refuse_bad_bitmaps(source)?;
    }
    for bitmap in persistent(source).filter(|bitmap| bitmap.is_inconsistent()) {
        let name = bitmap.name();
        if !skip {
            return Err(Failure::new(format!(
                "Cannot copy inconsistent bitmap '{name}': leave it out with --skip-broken-bitmaps, or remove it with 'strata-img bitmap --remove'"
            )));
        }
        eprintln!("strata-img: warning: Skipping inconsistent bitmap '{name}'");
    }
    Ok(())
}

/// Whether `target` can have bitmaps.
pub fn check_target(target: &Node) -> Result<(), Failure> {
    if has_bitmaps(target) {
        return Ok(());
    }
    let format = target.format();
    Err(Failure::new(format!(
        "Format driver '{format}' does not support bitmaps"
    )))
}

/// Makes the bitmaps of `source` in `target`, which nobody writes to any more.
pub async fn copy(source: &Rc<Node>, target: &Node) -> Result<(), Failure> {
    let place = target.path().display().to_string();
    for bitmap in persistent(source).filter(|bitmap| !bitmap.is_inconsistent()) {
        let name = bitmap.name();
        let add = BitmapChange::Add {
            // At most 2 GiB.
            granularity: u32::try_from(bitmap.granularity()).ok(),
            persistent: true,
            disabled: true,
        };
        let merge = BitmapChange::Merge(vec![(source.clone(), name.to_owned())]);
        let record = BitmapChange::Record(bitmap.is_recording());
        for (what, change) in [("create", add), ("populate", merge), ("enable", record)] {
            let failed =
                |why: String| Failure::new(format!("Failed to {what} bitmap {name}: {why}"));
            let plan = BitmapPlan::new(target, &place, name, change).map_err(failed)?;
            plan.announce()
                .await
                .map_err(|error| failed(error.to_string()))?;
            plan.carry_out();
        }
    }
    Ok(())
}

fn has_bitmaps(node: &Node) -> bool {
    node.image()
        .as_qcow2()
        .is_some_and(|image| image.version() > 2)
}

fn persistent(node: &Node) -> impl Iterator<Item = Rc<DirtyBitmap>> {
    let bitmaps = node.bitmaps().list().into_iter();
    bitmaps.filter(|bitmap| bitmap.is_persistent())
}
