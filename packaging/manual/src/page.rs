//! A document in Markdown, as a manual page in man(7).

use std::fmt::Write;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// A whole page. The document's title gives way to the page's name.
pub(crate) fn page(name: &str, section: u8, what: &str, markdown: &str) -> String {
    let (title, name, what) = (title(name, section, "File formats"), escape(name), escape(what));
    format!("'\\\" t\n{title}.SH NAME\n{name} \\- {what}\n.SH DESCRIPTION\n{}", body(markdown))
}

/// The line that begins a page. Without a date: the version says as much, and building again gives the same octets.
pub(crate) fn title(name: &str, section: u8, volume: &str) -> String {
    let (name, version) = (name.to_uppercase(), env!("CARGO_PKG_VERSION"));
    format!(".TH \"{name}\" {section} \"\" \"deskmilter {version}\" \"{volume}\"\n")
}

/// A document without a head.
pub(crate) fn body(markdown: &str) -> String {
    let mut writer = Writer::default();
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        writer.event(event);
    }
    writer.out
}

/// What mandoc(1) would rather have than what clap_mangen writes.
pub(crate) fn lint(page: &str) -> String {
    let mut out = String::with_capacity(page.len());
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        // A paragraph that a heading or a tagged paragraph begins anyway.
        let empty = line == ".PP" && lines.peek().is_none_or(|next| next.starts_with(".S") || next.starts_with(".TP"));
        let trimmed = line.trim_end();
        let again = line == ".br" && out.ends_with("\n.br\n");
        if !empty && !again && !trimmed.is_empty() {
            out.push_str(trimmed);
            out.push('\n');
        }
    }
    out
}

#[derive(Default)]
struct Writer {
    out: String,
    /// The text of the paragraph, heading or cell that is being read.
    text: String,
    /// Lists around it: whether they are numbered, and with what next.
    lists: Vec<Option<u64>>,
    /// The next paragraph begins an item, whose tag is written already.
    begins_item: bool,
    /// The tag of an item is still to come.
    tag: bool,
    code_block: bool,
    title: bool,
    /// Where the link leads that is being read.
    link: String,
    cells: Vec<String>,
    in_table: bool,
}

impl Writer {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(&tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.code_block => self.text.push_str(&text),
            Event::Text(text) => {
                let text = if self.begins_item { text.trim_start_matches(": ") } else { &text };
                self.text.push_str(&escape(text));
            }
            Event::Code(code) => {
                let _ = write!(self.text, "\\fB{}\\fR", escape(&code));
            }
            Event::SoftBreak => self.text.push('\n'),
            Event::HardBreak => self.text.push_str("\n.br\n"),
            _ => {}
        }
    }

    fn start(&mut self, tag: &Tag<'_>) {
        match tag {
            Tag::Heading { level, .. } => self.title = *level == pulldown_cmark::HeadingLevel::H1,
            Tag::List(first) => {
                self.paragraph();
                if !self.lists.is_empty() {
                    self.out.push_str(".RS 4\n");
                }
                self.lists.push(*first);
            }
            Tag::Item => {
                self.begins_item = true;
                self.tag = true;
            }
            Tag::Strong if self.tag => {
                self.tag = false;
                // The words in bold that begin an item are its tag.
                self.out.push_str(".TP\n");
            }
            Tag::Strong => self.text.push_str("\\fB"),
            Tag::Emphasis => self.text.push_str("\\fI"),
            Tag::CodeBlock(_) => {
                self.paragraph();
                self.code_block = true;
            }
            Tag::Link { dest_url, .. } => self.link = dest_url.to_string(),
            Tag::Table(columns) => {
                self.paragraph();
                self.in_table = true;
                let columns = vec!["lx"; columns.len()].join(" ");
                self.begin_paragraph(".PP");
                let _ = write!(self.out, ".TS\ntab(\t);\n{columns}.\n");
            }
            _ => {}
        }
        if self.tag && !matches!(tag, Tag::Item | Tag::Paragraph | Tag::Strong) {
            self.mark();
        }
    }

    /// An item without a tag of its own has a bullet or its number.
    fn mark(&mut self) {
        if !std::mem::take(&mut self.tag) {
            return;
        }
        match self.lists.last_mut() {
            Some(Some(number)) => {
                let _ = writeln!(self.out, ".IP {number}. 4");
                *number += 1;
            }
            _ => self.out.push_str(".IP \\(bu 2\n"),
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(level) => {
                let text = std::mem::take(&mut self.text);
                if !std::mem::take(&mut self.title) {
                    let heading = if level == pulldown_cmark::HeadingLevel::H2 { ".SH" } else { ".SS" };
                    let text = text.replace("\\fB", "").replace("\\fR", "").replace('"', "\\(dq");
                    let text = if heading == ".SH" { text.to_uppercase() } else { text };
                    let _ = writeln!(self.out, "{heading} \"{text}\"");
                }
            }
            TagEnd::Paragraph | TagEnd::Item => self.paragraph(),
            TagEnd::List(_) => {
                self.lists.pop();
                if !self.lists.is_empty() {
                    self.out.push_str(".RE\n");
                }
            }
            TagEnd::Strong if self.begins_item && !self.tag && self.out.ends_with(".TP\n") => {
                let text = std::mem::take(&mut self.text).replace("\\fB", "").replace("\\fR", "");
                let _ = writeln!(self.out, "\\fB{text}\\fR");
            }
            TagEnd::Strong | TagEnd::Emphasis => self.text.push_str("\\fR"),
            TagEnd::CodeBlock => {
                self.code_block = false;
                if self.lists.is_empty() {
                    self.begin_paragraph(".PP");
                }
                self.out.push_str(".RS 4\n.nf\n");
                for line in std::mem::take(&mut self.text).lines() {
                    let _ = writeln!(self.out, "{}", escape_line(line));
                }
                self.out.push_str(".fi\n.RE\n");
            }
            TagEnd::Link => {
                let link = std::mem::take(&mut self.link);
                if link.contains("://") {
                    let _ = write!(self.text, " <{}>", escape(&link));
                }
            }
            TagEnd::TableCell => self.cells.push(std::mem::take(&mut self.text)),
            TagEnd::TableHead | TagEnd::TableRow => {
                let cells: Vec<_> =
                    self.cells.drain(..).map(|cell| format!("T{{\n.ad l\n{}\nT}}", lines(&cell))).collect();
                let _ = writeln!(self.out, "{}", cells.join("\t"));
            }
            TagEnd::Table => {
                self.in_table = false;
                self.out.push_str(".TE\n");
            }
            _ => {}
        }
    }

    /// A heading has begun a paragraph already.
    fn begin_paragraph(&mut self, request: &str) {
        let last = self.out.lines().next_back().unwrap_or(".SH");
        if !last.starts_with(".SH") && !last.starts_with(".SS") {
            self.out.push_str(request);
            self.out.push('\n');
        }
    }

    /// Writes the paragraph that was read.
    fn paragraph(&mut self) {
        let text = std::mem::take(&mut self.text);
        if text.trim().is_empty() {
            return;
        }
        self.mark();
        if !std::mem::take(&mut self.begins_item) {
            self.begin_paragraph(if self.lists.is_empty() { ".PP" } else { ".IP" });
        }
        let _ = writeln!(self.out, "{}", lines(text.trim()));
    }
}

/// Text for roff: nothing in it is a request or an escape.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            '~' => out.push_str("\\(ti"),
            '^' => out.push_str("\\(ha"),
            '`' => out.push_str("\\(ga"),
            '\'' => out.push_str("\\(aq"),
            c if c.is_ascii() => out.push(c),
            c => {
                let _ = write!(out, "\\[u{:04X}]", u32::from(c));
            }
        }
    }
    out
}

/// A line of literal text.
fn escape_line(line: &str) -> String {
    guard(&escape(line))
}

/// Text of several lines, none of which begins a request.
fn lines(text: &str) -> String {
    text.lines()
        .map(|line| if line == ".br" { line.to_owned() } else { guard(line.trim()) })
        .collect::<Vec<_>>()
        .join("\n")
}

fn guard(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}
