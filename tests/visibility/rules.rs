//! What is shipped for Prometheus and Grafana fits what the daemon tells.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use deskmilter::status::list::{ALL, Kind};
use serde_json::Value;
use support::promtool;

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/monitoring")
}

fn run_promtool(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(promtool()).args(arguments).current_dir(monitoring()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Words of an expression that look like names of our metrics.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("deskmilter_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

fn is_in_the_list(name: &str) -> bool {
    ALL.iter().any(|metric| match name.strip_prefix(metric.name) {
        Some("") => metric.kind != Kind::Histogram,
        Some("_bucket" | "_sum" | "_count") => metric.kind == Kind::Histogram,
        _ => false,
    })
}

/// The expressions of the dashboard, with its variables filled in.
fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let notes = dashboard["annotations"]["list"].as_array().unwrap().iter();
    let all = targets.chain(notes).filter_map(|target| target["expr"].as_str());
    let fill =
        |text: &str| text.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$connector", ".*");
    all.map(fill).collect()
}

#[test]
fn the_alert_rules_are_rules_and_fire_when_they_should() {
    let (good, said) = run_promtool(&["check", "rules", "deskmilter.rules.yml"]);
    assert!(good, "{said}");
    let (good, said) = run_promtool(&["test", "rules", "deskmilter.rules.test.yml"]);
    assert!(good, "{said}");
    let (good, said) = run_promtool(&["check", "config", "--syntax-only", "prometheus.yml"]);
    assert!(good, "{said}");
}

#[test]
fn every_metric_of_the_rules_is_one_that_there_is() {
    for name in ["deskmilter.rules.yml", "deskmilter.rules.test.yml"] {
        let text = fs::read_to_string(monitoring().join(name)).unwrap();
        let used: Vec<String> = metrics_in(&text).into_iter().collect();
        assert!(used.len() > 5, "{used:?}");
        for metric in used {
            assert!(is_in_the_list(&metric), "{name}: {metric}");
        }
    }
}

#[test]
fn the_dashboard_asks_for_what_there_is_in_words_that_prometheus_understands() {
    let text = fs::read_to_string(monitoring().join("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    for metric in metrics_in(&text) {
        assert!(is_in_the_list(&metric), "{metric}");
    }
    let panels = dashboard["panels"].as_array().unwrap();
    let numbers: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(numbers.len(), panels.len(), "a panel's id is another's");
    let expressions = expressions(&dashboard);
    assert!(expressions.len() > 30, "{}", expressions.len());
    let rules: Vec<Value> = expressions
        .iter()
        .enumerate()
        .map(|(n, expression)| serde_json::json!({"record": format!("panel:n{n}"), "expr": expression}))
        .collect();
    // YAML is a superset of JSON.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("panels.yml");
    fs::write(&file, serde_json::json!({"groups": [{"name": "panels", "rules": rules}]}).to_string()).unwrap();
    let (good, said) = run_promtool(&["check", "rules", file.to_str().unwrap()]);
    assert!(good, "{said}");
}

#[test]
fn the_page_on_metrics_names_each_with_its_kind_labels_and_meaning() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let mut missing = Vec::new();
    for metric in ALL {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let row = format!("| `{}` | {} | {} | {} |", metric.name, metric.kind.as_str(), labels.join(", "), metric.help);
        if !page.contains(&row) {
            missing.push(row);
        }
    }
    assert!(missing.is_empty(), "docs/metrics.md lacks\n{}", missing.join("\n"));
    for name in metrics_in(&page) {
        let is_histogram = ALL.iter().any(|metric| metric.name == name);
        assert!(is_histogram || is_in_the_list(&name), "docs/metrics.md: {name}");
    }
    for rule in fs::read_to_string(monitoring().join("deskmilter.rules.yml")).unwrap().lines() {
        if let Some((_, alert)) = rule.split_once("- alert: ") {
            assert!(page.contains(&format!("`{alert}`")), "docs/metrics.md: {alert}");
        }
    }
}
