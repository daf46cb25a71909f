//! A strict reader of the Prometheus text formats: panics on text that a scraper could reject.

use std::collections::{BTreeMap, BTreeSet};

/// The format whose rules apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Classic,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// Name, type and samples of a metric family.
#[derive(Debug)]
pub struct Family {
    pub name: String,
    pub kind: String,
    help: bool,
    unit: Option<String>,
    /// Samples by name and labels.
    pub samples: BTreeMap<String, f64>,
}

pub struct Exposition {
    pub families: Vec<Family>,
}

impl Exposition {
    #[track_caller]
    pub fn read(text: &str, format: Format) -> Exposition {
        assert!(text.ends_with('\n'), "the last line ends with a newline");
        let mut exposition = Exposition { families: Vec::new() };
        let mut ended = false;
        for line in text.lines() {
            assert!(!ended, "{line} follows the end marker");
            match line.strip_prefix("# ") {
                Some("EOF") => ended = true,
                Some(comment) => exposition.describe(comment),
                None => exposition.add(line, format),
            }
        }
        assert_eq!(
            ended,
            format == Format::OpenMetrics,
            "only OpenMetrics marks the end"
        );
        exposition.check(format);
        exposition
    }

    /// The value of a sample, by its name and labels.
    #[track_caller]
    pub fn value(&self, sample: &str) -> f64 {
        let mut samples = self.families.iter().flat_map(|family| &family.samples);
        let found = samples.find(|(name, _)| *name == sample);
        *found.unwrap_or_else(|| panic!("no sample {sample}")).1
    }

    fn describe(&mut self, comment: &str) {
        let mut words = comment.splitn(3, ' ');
        let (keyword, name, rest) = (words.next(), words.next(), words.next());
        let (Some(keyword), Some(name), Some(rest)) = (keyword, name, rest) else {
            panic!("{comment} is incomplete");
        };
        if self.families.last().is_none_or(|family| family.name != name) {
            self.families.push(Family {
                name: name.to_owned(),
                kind: String::new(),
                help: false,
                unit: None,
                samples: BTreeMap::new(),
            });
        }
        let family = self.families.last_mut().expect("pushed above when missing");
        assert!(family.samples.is_empty(), "{comment} comes after samples");
        match keyword {
            "HELP" => assert!(
                !std::mem::replace(&mut family.help, true),
                "{comment} comes twice"
            ),
            "TYPE" => {
                assert!(family.kind.is_empty(), "{comment} comes twice");
                rest.clone_into(&mut family.kind);
            }
            "UNIT" => family.unit = Some(rest.to_owned()),
            other => panic!("{other} is not a keyword"),
        }
    }

    fn add(&mut self, line: &str, format: Format) {
        let (sample, value) = line
            .rsplit_once(' ')
            .unwrap_or_else(|| panic!("{line} has no value"));
        let value: f64 = value
            .parse()
            .unwrap_or_else(|_| panic!("{line} has no numeric value"));
        let name = sample.split('{').next().expect("split gives one part at least");
        assert_labels(sample);
        let family = self
            .families
            .last_mut()
            .unwrap_or_else(|| panic!("{line} belongs to no family"));
        let suffixes: &[&str] = match (family.kind.as_str(), format) {
            ("counter", Format::OpenMetrics) => &["_total"],
            ("counter", Format::Classic) | ("gauge", _) => &[""],
            ("histogram", _) => &["_bucket", "_sum", "_count"],
            (other, _) => panic!("{line} is of type {other:?}"),
        };
        let belongs = suffixes
            .iter()
            .any(|suffix| name == format!("{}{suffix}", family.name));
        assert!(belongs, "{line} does not belong to {}", family.name);
        let before = family.samples.insert(sample.to_owned(), value);
        assert_eq!(before, None, "{line} comes twice");
    }

    fn check(&self, format: Format) {
        let names: BTreeSet<&str> = self.families.iter().map(|family| family.name.as_str()).collect();
        assert_eq!(names.len(), self.families.len(), "a family is split");
        for family in &self.families {
            let has_prefix = ["orderly_", "process_"]
                .iter()
                .any(|prefix| family.name.starts_with(prefix));
            assert!(has_prefix, "{}", family.name);
            assert!(
                family.help && !family.kind.is_empty(),
                "{} has no help text",
                family.name
            );
            let total = family.name.ends_with("_total");
            let is_classic_counter = family.kind == "counter" && format == Format::Classic;
            assert_eq!(total, is_classic_counter, "{}", family.name);
            if let Some(unit) = &family.unit {
                assert_eq!(format, Format::OpenMetrics, "{} has a unit", family.name);
                assert!(
                    family.name.ends_with(&format!("_{unit}")),
                    "{} in {unit}",
                    family.name
                );
            }
            match family.kind.as_str() {
                "counter" => assert!(family.samples.values().all(|value| *value >= 0.0)),
                "histogram" => family.check_histograms(),
                _ => {}
            }
        }
    }
}

impl Family {
    /// Checks for each set of labels that buckets rise up to the total, which equals the count, and that there is a
    /// sum.
    fn check_histograms(&self) {
        let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for (sample, value) in &self.samples {
            let Some(labels) = sample.strip_prefix(&format!("{}_bucket", self.name)) else {
                continue;
            };
            let (bound, others) = take_bound(labels);
            series.entry(others).or_default().push((bound, *value));
        }
        let counted = self.samples.keys().filter(|sample| sample.contains("_count"));
        assert_eq!(
            counted.count(),
            series.len(),
            "{} lacks a count for some series",
            self.name
        );
        for (labels, mut buckets) in series {
            buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
            let values = buckets.iter().map(|(_, value)| *value);
            assert!(values.is_sorted(), "{}{labels} falls", self.name);
            let (last_bound, everything) = *buckets.last().expect("a series has at least one bucket");
            assert!(
                last_bound.is_infinite(),
                "{}{labels} ends at {last_bound}",
                self.name
            );
            let count = self.samples.get(&format!("{}_count{labels}", self.name));
            assert_eq!(count, Some(&everything), "{}{labels}", self.name);
            let sum = self.samples.get(&format!("{}_sum{labels}", self.name));
            assert!(sum.is_some_and(|sum| *sum >= 0.0), "{}{labels}", self.name);
        }
    }
}

/// Splits the bound of a bucket from its other labels.
fn take_bound(labels: &str) -> (f64, String) {
    let inside = labels.trim_start_matches('{').trim_end_matches('}');
    let mut bound = None;
    let others: Vec<&str> = inside
        .split(',')
        .filter(|label| match label.strip_prefix("le=\"") {
            Some(text) => {
                bound = text.trim_end_matches('"').parse().ok();
                false
            }
            None => true,
        })
        .collect();
    let bound = bound.unwrap_or_else(|| panic!("{labels} has no bound"));
    let others = if others.is_empty() {
        String::new()
    } else {
        format!("{{{}}}", others.join(","))
    };
    (bound, others)
}

/// Checks names and quoted values. Our labels hold neither commas nor escapes.
fn assert_labels(sample: &str) {
    let Some((_, labels)) = sample.split_once('{') else {
        return;
    };
    let labels = labels
        .strip_suffix('}')
        .unwrap_or_else(|| panic!("{sample} is not closed"));
    for label in labels.split(',') {
        let (name, value) = label
            .split_once('=')
            .unwrap_or_else(|| panic!("{sample}: {label}"));
        let named = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let quoted = value.len() >= 2 && value.starts_with('"') && value.ends_with('"');
        let plain = quoted && !value[1..value.len() - 1].contains(['"', '\\']);
        assert!(named && plain, "{sample}: {label}");
    }
}
