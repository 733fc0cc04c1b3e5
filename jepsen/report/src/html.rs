//! Escaping, relative links, and the frame that both kinds of page share.

use std::fmt::Write as _;

const STYLE: &str = include_str!("html/base.css");

/// Nothing is loaded and nothing is sent, whatever gets into a page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// Text as it may stand between tags and inside quoted attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(c),
            // Not allowed in HTML.
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The address of a file below the page's own directory: never another scheme or host, whatever the name.
pub fn link(name: &str) -> String {
    let mut link = String::from("./");
    for &byte in name.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"._-/".contains(&byte) {
            link.push(char::from(byte));
        } else {
            let _ = write!(link, "%{byte:02X}");
        }
    }
    link
}

/// A whole page. `style`, `body` and `script` go in as they are; `title` is escaped.
pub fn document(title: &str, style: &str, body: &str, script: &str) -> String {
    let title = escape(title);
    let script = if script.is_empty() { String::new() } else { format!("<script>\n{script}</script>\n") };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <title>{title}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n<body>\n{body}{script}</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_opens_a_tag_or_ends_an_attribute() {
        assert_eq!(escape("<b a=\"x\" b='y'>&\u{1}"), "&lt;b a=&quot;x&quot; b=&#39;y&#39;&gt;&amp;\u{fffd}");
    }

    #[test]
    fn links_stay_below_the_page() {
        assert_eq!(link("seed-7.html"), "./seed-7.html");
        assert_eq!(link("javascript:alert(1)"), "./javascript%3Aalert%281%29");
        assert_eq!(link("//host/a b"), ".///host/a%20b");
    }
}
