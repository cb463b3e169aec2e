//! `funcx task timeline`

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use funcx_core::model::TaskId;
use funcx_net::client::{TimelineView, TransitionView};

use super::common::Common;
use super::output::{age_of, table};

/// Shows what happened to a task: when, and who did it.
pub(super) async fn show(common: &Common, id: TaskId) -> Result<ExitCode> {
    let timeline = common.client()?.timeline(id).await?;
    common.output().show(&timeline, described)?;
    Ok(ExitCode::SUCCESS)
}

fn described(timeline: &TimelineView) -> String {
    let TimelineView { task_id, status, outcome, trace_id, transitions } = timeline;
    let status = outcome.map_or_else(|| status.clone(), |outcome| outcome.to_string());
    let trace = trace_id.as_ref().map(|trace| format!(", trace {trace}")).unwrap_or_default();
    let Some(first) = transitions.first() else { return format!("task {task_id}: {status}{trace}") };
    let head = format!("task {task_id}: {status}, accepted {}{trace}\n\n", age_of(first.at));
    let rows = transitions.iter().map(|transition| row(transition, first.at));
    head + &table(["AFTER", "WHAT", "ATTEMPT", "BY", "DETAIL"], rows, "nothing is known")
}

fn row(transition: &TransitionView, origin: u64) -> [String; 5] {
    let TransitionView { at, what, attempt, actor, detail } = transition;
    let attempt = attempt.map(|attempt| attempt.to_string()).unwrap_or_default();
    // Failures may carry whole paragraphs; `task show` prints them.
    let detail = detail.lines().next().unwrap_or_default().to_owned();
    [after(*at, origin), what.clone(), attempt, actor.clone(), detail]
}

/// Time since the origin; clocks of two machines may differ, so it can be before it.
fn after(at: u64, origin: u64) -> String {
    let (sign, between) = if at >= origin { ("", at - origin) } else { ("-", origin - at) };
    let between = Duration::from_nanos(between);
    match between.as_secs() {
        0 => format!("{sign}{:.3} ms", between.as_secs_f64() * 1e3),
        1..60 => format!("{sign}{:.3} s", between.as_secs_f64()),
        60..3600 => format!("{sign}{} min {} s", between.as_secs() / 60, between.as_secs() % 60),
        seconds => format!("{sign}{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_acceptance() {
        let second = 1_000_000_000;
        for (at, text) in [
            (second, "0.000 ms"),
            (second + 1_234_567, "1.235 ms"),
            (second - 500_000, "-0.500 ms"),
            (4 * second, "3.000 s"),
            (91 * second, "1 min 30 s"),
            (7321 * second, "2 h 2 min"),
        ] {
            assert_eq!(after(at, second), text);
        }
    }

    #[test]
    fn a_timeline_has_a_line_for_each_transition() {
        let transition = |at, what: &str, attempt, detail: &str| TransitionView {
            at,
            what: what.to_owned(),
            attempt,
            actor: "service".to_owned(),
            detail: detail.to_owned(),
        };
        let text = described(&TimelineView {
            task_id: TaskId::from_u128(1),
            status: "finished".to_owned(),
            outcome: Some(funcx_core::model::OutcomeKind::Raised),
            trace_id: Some("ab".to_owned()),
            transitions: vec![
                transition(5_000_000, "accepted", None, ""),
                transition(7_000_000, "completed", Some(1), "raised: E: first\nsecond"),
            ],
        });
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[0].starts_with("task 00000000-0000-0000-0000-000000000001: raised, accepted "),
            "{text}"
        );
        assert!(lines[0].ends_with(", trace ab"), "{text}");
        assert_eq!(lines[3].split_whitespace().collect::<Vec<_>>(), ["0.000", "ms", "accepted", "service"]);
        assert!(lines[4].contains("2.000 ms") && lines[4].ends_with("raised: E: first"), "{text}");
        assert_eq!(lines.len(), 5, "{text}");
    }
}
