//! JSON for snapshots: one member or element per line.

/// Breaks lines only: order and digits are part of the promise.
pub fn in_lines(json: &str) -> String {
    let mut lines = String::new();
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for character in json.chars() {
        let structural = !in_string;
        if structural && matches!(character, '}' | ']') {
            depth -= 1;
            break_line(&mut lines, depth);
        }
        lines.push(character);
        if structural && matches!(character, '{' | '[') {
            depth += 1;
        }
        if structural && matches!(character, '{' | '[' | ',') {
            break_line(&mut lines, depth);
        }
        if character == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = character == '\\' && !escaped;
    }
    lines
}

fn break_line(lines: &mut String, depth: usize) {
    lines.push('\n');
    lines.extend(std::iter::repeat_n("  ", depth));
}
