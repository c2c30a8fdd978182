//! `x-strata-job-progress`: events once a second, for those who have asked.

use crate::client::Client;
use crate::fake::{Bench, job};

const ASK: &str = r#"{"execute": "x-strata-job-progress", "arguments": {"enable": true}}"#;

#[test]
fn progress_is_sent_to_who_has_asked() {
    let bench = Bench::new();
    bench.state.lock().unwrap().jobs.push(job("virtio0", 0));
    let mut asks = Client::qmp(&bench.qmp);
    let mut other = Client::qmp(&bench.qmp);
    assert_eq!(asks.ask(ASK), r#"{"return": {}}"#);
    for _ in 0..2 {
        let event = asks.line();
        assert!(
            event.contains(r#""event": "X_STRATA_JOB_PROGRESS""#),
            "{event}"
        );
        for member in [
            r#""id": "virtio0""#,
            r#""status": "running""#,
            r#""current-progress": 1048576"#,
            r#""total-progress": 67108864"#,
        ] {
            assert!(event.contains(member), "{event}");
        }
    }
    asks.ask(&ASK.replace("true", "false"));
    // The other one has been sent nothing: the next that it reads is its answer.
    let answer = other.ask(r#"{"execute": "query-jobs", "id": 1}"#);
    assert!(answer.starts_with(r#"{"return": "#), "{answer}");
}

#[test]
fn it_says_what_is_to_be_enabled() {
    let bench = Bench::new();
    let mut client = Client::qmp(&bench.qmp);
    let answer = client.ask(r#"{"execute": "x-strata-job-progress"}"#);
    assert!(answer.contains("Parameter 'enable' is missing"), "{answer}");
}
