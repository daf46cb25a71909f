//! The report of all checks, as JSON and as text.

use serde_json::json;

use super::Check;
use crate::cli::output;
use crate::config::Shown;

pub(super) fn as_json(checks: &[Check], settings: &[Shown], healthy: bool) -> serde_json::Value {
    let check = |(name, finding): &Check| {
        json!({
            "name": name,
            "state": finding.state.name(),
            "finding": finding.text,
            "because": finding.because,
            "advice": finding.advice,
        })
    };
    let setting = |setting: &Shown| {
        json!({
            "name": setting.variable,
            "value": setting.value,
            "origin": setting.origin,
        })
    };
    json!({
        "healthy": healthy,
        "checks": checks.iter().map(check).collect::<Vec<_>>(),
        "settings": settings.iter().map(setting).collect::<Vec<_>>(),
    })
}

pub(super) fn as_text(checks: &[Check], settings: &[Shown]) -> String {
    let mut lines = Vec::new();
    for (name, finding) in checks {
        let text = output::printable(&finding.text);
        lines.push(format!("{:4}  {name:19}  {text}", finding.state.name()));
        if let Some(cause) = &finding.because {
            lines.push(format!("      {:19}  {}", "because", output::printable(cause)));
        }
        if let Some(advice) = &finding.advice {
            lines.push(format!("      {:19}  {}", "do", output::printable(advice)));
        }
    }
    let rows: Vec<[String; 3]> = settings
        .iter()
        .map(|setting| {
            [
                setting.variable.to_owned(),
                setting.value.clone().unwrap_or_else(|| "-".to_owned()),
                setting.origin.clone(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        lines.push(String::new());
        lines.push(output::table(["SETTING", "VALUE", "ORIGIN"], &rows));
    }
    lines.join("\n")
}
