//! Joins the block layer's vhost-user exports to the device that serves them.

use std::rc::Rc;

use strata_block::{
    api::VhostUserSpec,
    disk::Disk,
    engine::{Listening, VhostUserExport},
};
use strata_devices::vhost_user::Export;
use strata_exec::Executor;

/// Serves `disk` at `listening` until it is stopped.
///
/// # Errors
/// One line on what the host lacks.
pub fn serve(
    exec: &Rc<Executor>,
    listening: Listening,
    disk: Disk,
    spec: &VhostUserSpec,
) -> Result<Rc<dyn VhostUserExport>, String> {
    let export = Export::start(exec, listening, disk, spec.queues, spec.writable);
    match export {
        Ok(export) => Ok(Rc::new(export)),
        Err(error) => Err(error.to_string()),
    }
}
