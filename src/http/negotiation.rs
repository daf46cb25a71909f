//! Content negotiation by the `Accept` header (RFC 9110 section 12.5.1).

/// Formats of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    /// Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics text format 1.0.0.
    OpenMetrics,
}

/// Chooses JSON for `application/json`, `*/*` or no header, and a scraper's format if it is named with the highest
/// quality. `*/*` never chooses a scraper's format: scrapers name theirs and send `*/*` last as a fallback.
pub fn choose<'a>(accept: impl IntoIterator<Item = &'a str>) -> Form {
    let mut best: Option<(Form, Preference)> = None;
    let mut scraper = false;
    let ranges = accept.into_iter().flat_map(|value| value.split(','));
    for range in ranges {
        let (name, parameters) = range.split_once(';').unwrap_or((range, ""));
        let name = name.trim().to_ascii_lowercase();
        scraper |= name == "application/vnd.google.protobuf";
        let Some((form, named)) = form_of(&name, parameters) else {
            continue;
        };
        let preference = Preference {
            thousandths: quality(parameters),
            named,
        };
        let better = best.is_none_or(|(_, best)| preference > best);
        if preference.thousandths > 0 && better {
            best = Some((form, preference));
        }
    }
    match best {
        Some((form, _)) => form,
        // The scraper names only unknown formats; all scrapers read text.
        None if scraper => Form::Text,
        None => Form::Json,
    }
}

/// Reports whether an event stream is named with at least the quality of JSON; wildcards choose the page.
pub fn wants_event_stream<'a>(accept: impl IntoIterator<Item = &'a str>) -> bool {
    let (mut stream, mut json) = (0, 0);
    for range in accept.into_iter().flat_map(|value| value.split(',')) {
        let (name, parameters) = range.split_once(';').unwrap_or((range, ""));
        let name = name.trim();
        if name.eq_ignore_ascii_case("text/event-stream") {
            stream = stream.max(quality(parameters));
        } else if name.eq_ignore_ascii_case("application/json") {
            json = json.max(quality(parameters));
        }
    }
    stream > 0 && stream >= json
}

/// Compared field by field; among equals the first in the header wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Preference {
    thousandths: u16,
    /// False for a wildcard.
    named: bool,
}

fn form_of(name: &str, parameters: &str) -> Option<(Form, bool)> {
    match name {
        "application/json" => Some((Form::Json, true)),
        "*/*" | "application/*" => Some((Form::Json, false)),
        // Any version of the text: 0.0.4 is the fallback that every scraper accepts.
        "text/plain" => Some((Form::Text, true)),
        "text/*" => Some((Form::Text, false)),
        "application/openmetrics-text" => match parameter(parameters, "version") {
            None | Some("1.0.0") => Some((Form::OpenMetrics, true)),
            Some(_) => None,
        },
        _ => None,
    }
}

/// Returns the quality in thousandths; 1,000 if none is given, 0 (not acceptable) if it is malformed.
fn quality(parameters: &str) -> u16 {
    let Some(text) = parameter(parameters, "q") else {
        return 1_000;
    };
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = decimals.bytes().all(|byte| byte.is_ascii_digit());
    if !matches!(whole, "0" | "1") || decimals.len() > 3 || !digits {
        return 0;
    }
    let padded = format!("{whole}{decimals:0<3}");
    padded
        .parse::<u16>()
        .map_or(0, |thousandths| thousandths.min(1_000))
}

fn parameter<'a>(parameters: &'a str, name: &str) -> Option<&'a str> {
    parameters.split(';').find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim()
            .eq_ignore_ascii_case(name)
            .then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_chosen_unless_a_scrape_format_is_named() {
        for accept in [
            &[][..],
            &["*/*"],
            &["application/json"],
            &["application/json, text/plain, */*"],
            &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
            &["image/png"],
            &["text/plain;q=0"],
            &["text/plain;q=x"],
            &["text/plain;q=0.5", "application/json;q=0.501"],
        ] {
            assert_eq!(choose(accept.iter().copied()), Form::Json, "{accept:?}");
        }
    }

    #[test]
    fn an_event_stream_must_be_named() {
        for accept in [
            &["text/event-stream"][..],
            &["Text/Event-Stream; q=0.1"],
            &["application/json;q=0.5, text/event-stream"],
            &["*/*", "text/event-stream"],
        ] {
            assert!(wants_event_stream(accept.iter().copied()), "{accept:?}");
        }
        for accept in [
            &[][..],
            &["*/*"],
            &["text/*"],
            &["text/event-stream;q=0"],
            &["application/json, text/event-stream;q=0.9"],
        ] {
            assert!(!wants_event_stream(accept.iter().copied()), "{accept:?}");
        }
    }

    #[test]
    fn prometheus_gets_the_format_it_prefers() {
        // Sent by Prometheus 3.
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(choose([prometheus]), Form::OpenMetrics);
        // Sent by Prometheus 2 before OpenMetrics.
        assert_eq!(choose(["text/plain;version=0.0.4;q=1,*/*;q=0.1"]), Form::Text);
        assert_eq!(choose(["text/plain, */*"]), Form::Text);
        assert_eq!(choose(["*/*, text/plain"]), Form::Text);
        assert_eq!(
            choose(["application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily"]),
            Form::Text
        );
        assert_eq!(
            choose(["application/openmetrics-text;version=0.0.1, text/plain;q=0.1"]),
            Form::Text
        );
    }
}
