//! What came of a run as CI servers read it: a JUnit report with one test.

use std::{
    io::{self, Write},
    path::Path,
    time::Duration,
};

use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestSuite};

use super::{FAILED, KVM_UNUSABLE, RunResult};

impl RunResult {
    /// Writes it as a JUnit report. The test is called `name`, in the class that the kernel is, and
    /// in the suite `suite`.
    ///
    /// # Errors
    /// The host's.
    pub fn write_junit(&self, suite: &str, name: &str, file: impl Write) -> io::Result<()> {
        let mut report = Report::new("strata");
        report.add_test_suite(self.suite(suite, name));
        report.serialize(file).map_err(io::Error::other)
    }

    fn suite(&self, suite: &str, name: &str) -> TestSuite {
        let mut case = TestCase::new(name, self.status());
        if let Some(kernel) = &self.versions.kernel {
            case.set_classname(file_name(kernel));
        }
        if let Some(seconds) = self.times.end {
            case.set_time(Duration::from_secs_f64(seconds));
        }
        for (name, value) in [
            ("outcome", self.outcome.to_owned()),
            ("exit-status", self.exit_status.to_string()),
            ("host", self.versions.host.clone()),
            ("strata", self.versions.strata.to_owned()),
        ] {
            case.add_property(Property::new(name, value));
        }
        if let Some(core) = &self.core {
            case.add_property(Property::new("core", core.display().to_string()));
        }
        if !self.console.is_empty() {
            case.set_system_out(self.console.join("\n"));
        }
        let mut suite = TestSuite::new(suite);
        suite.add_test_case(case);
        suite
    }

    /// A guest that does not end as it should has failed; where it could not be run, that is an
    /// error.
    fn status(&self) -> TestCaseStatus {
        let kind = match self.exit_status {
            0 => return TestCaseStatus::success(),
            FAILED | KVM_UNUSABLE if !self.command_ended => NonSuccessKind::Error,
            _ => NonSuccessKind::Failure,
        };
        let mut status = TestCaseStatus::non_success(kind);
        status
            .set_type(self.outcome)
            .set_message(self.reason.as_str())
            .set_description(self.for_people());
        status
    }
}

fn file_name(path: &str) -> String {
    let name = Path::new(path).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
