//! Events: what QMP clients are sent unasked.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use strata_block::api::Event;

use crate::monitor::notice::{Notice, PanicAction, ShutdownCause};

/// The object that is sent for `notice`, which happened at `time`.
pub(in crate::monitor) fn event(time: SystemTime, notice: &Notice) -> Value {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (name, data) = describe(notice);
    let mut members = Map::new();
    members.insert("event".to_owned(), name.into());
    members.extend(data.map(|data| ("data".to_owned(), data)));
    members.insert(
        "timestamp".to_owned(),
        json!({"seconds": since.as_secs(), "microseconds": since.subsec_micros()}),
    );
    Value::Object(members)
}

fn describe(notice: &Notice) -> (&'static str, Option<Value>) {
    match notice {
        Notice::Block(event) => {
            let (name, data) = describe_block(event);
            (name, Some(data))
        }
        Notice::Stop => ("STOP", None),
        Notice::Resume => ("RESUME", None),
        Notice::DeviceDeleted { device, path } => {
            let mut data = json!({"path": path});
            if let (Value::Object(members), Some(device)) = (&mut data, device) {
                members.insert("device".to_owned(), json!(device));
            }
            ("DEVICE_DELETED", Some(data))
        }
        Notice::Suspend => ("SUSPEND", None),
        Notice::Wakeup => ("WAKEUP", None),
        Notice::Powerdown => ("POWERDOWN", None),
        Notice::Reset { guest } => {
            let reason = if *guest {
                "guest-reset"
            } else {
                "host-qmp-system-reset"
            };
            ("RESET", Some(json!({"guest": guest, "reason": reason})))
        }
        Notice::GuestPanicked(action) => {
            let action = match action {
                PanicAction::Run => "run",
                PanicAction::Pause => "pause",
                PanicAction::Poweroff => "poweroff",
            };
            ("GUEST_PANICKED", Some(json!({"action": action})))
        }
        Notice::GuestCrashLoaded => ("GUEST_CRASHLOADED", Some(json!({"action": "run"}))),
        Notice::JobProgress(job) => ("X_STRATA_JOB_PROGRESS", Some(json!(job))),
        Notice::Shutdown(cause) => {
            let (guest, reason) = match cause {
                ShutdownCause::Guest => (true, "guest-shutdown"),
                ShutdownCause::GuestReset => (true, "guest-reset"),
                ShutdownCause::GuestPanic => (true, "guest-panic"),
                ShutdownCause::SystemReset => (false, "host-qmp-system-reset"),
                ShutdownCause::Quit => (false, "host-qmp-quit"),
                ShutdownCause::Signal => (false, "host-signal"),
                ShutdownCause::HostError => (false, "host-error"),
            };
            ("SHUTDOWN", Some(json!({"guest": guest, "reason": reason})))
        }
    }
}

fn describe_block(event: &Event) -> (&'static str, Value) {
    match event {
        Event::JobStatusChange { id, status } => {
            ("JOB_STATUS_CHANGE", json!({"id": id, "status": status}))
        }
        Event::JobCompleted(end, error) => {
            let mut data = json!(end);
            if let (Value::Object(members), Some(error)) = (&mut data, error) {
                members.insert("error".to_owned(), json!(error));
            }
            ("BLOCK_JOB_COMPLETED", data)
        }
        Event::JobCancelled(end) => ("BLOCK_JOB_CANCELLED", json!(end)),
        Event::JobReady(end) => ("BLOCK_JOB_READY", json!(end)),
        Event::JobPending { kind, id } => ("BLOCK_JOB_PENDING", json!({"type": kind, "id": id})),
        Event::JobError {
            device,
            operation,
            action,
        } => (
            "BLOCK_JOB_ERROR",
            json!({"device": device, "operation": operation, "action": action}),
        ),
        Event::ExportDeleted { id } => ("BLOCK_EXPORT_DELETED", json!({"id": id})),
        Event::TrayMoved { device, path, open } => (
            "DEVICE_TRAY_MOVED",
            json!({"device": device, "id": path, "tray-open": open}),
        ),
        Event::IoError {
            device,
            node_name,
            operation,
            action,
            nospace,
            reason,
        } => (
            "BLOCK_IO_ERROR",
            json!({
                "device": device,
                "node-name": node_name,
                "operation": operation,
                "action": action,
                "nospace": nospace,
                "reason": reason,
            }),
        ),
    }
}
