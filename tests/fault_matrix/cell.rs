//! What a fault comes to: one cell for each way of relaying.

/// How a connector relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "the modes are also the names of the tests")]
pub enum Mode {
    /// Out of Postfix's queue.
    transport,
    /// By the milter, before the queue.
    inline,
}

/// What is there while the fault lasts, and what there is in the end.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    /// What the client hears after the message. `None`: the connection ends without a reply.
    pub reply: Option<&'static str>,
    /// What is in Postfix's queue.
    pub queue: Queue,
    /// Tickets while the fault lasts.
    pub tickets: usize,
    /// Who says what it was.
    pub log: Log,
    /// Tickets when the fault is over, and Postfix or the client has come again: 1, or 2 where nobody can know whether the first
    /// copy was taken, or 0 for what was refused for good.
    pub in_the_end: usize,
}

/// What is in Postfix's queue. Words are as in [`says`].
#[derive(Debug, Clone, Copy)]
pub enum Queue {
    /// Nothing, and nobody was sent a bounce.
    Empty,
    /// The message, deferred for this reason.
    Waits(&'static str),
    /// Nothing: the sender got it back with these words.
    Bounced(&'static str),
}

/// The line that tells what it was. Words are as in [`says`].
#[derive(Debug, Clone, Copy)]
pub enum Log {
    /// Our line of the message: its queue id, the decision and the reply.
    Relay(&'static str, &'static str),
    /// Another line of ours with its queue id.
    OfTheMessage(&'static str),
    /// A line of ours about ourselves.
    Ours(&'static str),
    /// We could not say anything: Postfix's log.
    Postfix(&'static str),
}

/// The cells of one fault.
#[derive(Debug, Clone, Copy)]
pub struct Cells {
    /// With `relay = "transport"`.
    pub transport: Option<Cell>,
    /// With `relay = "inline"`.
    pub inline: Option<Cell>,
}

impl Cells {
    /// The cell of a mode.
    pub fn of(&self, mode: Mode) -> Option<Cell> {
        match mode {
            Mode::transport => self.transport,
            Mode::inline => self.inline,
        }
    }

    /// Both cells changed.
    pub fn each(self, change: fn(Cell) -> Cell) -> Self {
        Self { transport: self.transport.map(change), inline: self.inline.map(change) }
    }

    /// As many tickets in the end.
    pub fn in_the_end(self, tickets: usize) -> Self {
        let set = |cell| Cell { in_the_end: tickets, ..cell };
        Self { transport: self.transport.map(set), inline: self.inline.map(set) }
    }
}

/// Both modes, each as it is.
pub fn cells(transport: Cell, inline: Cell) -> Cells {
    Cells { transport: Some(transport), inline: Some(inline) }
}

/// Put off with these words: transport mail waits in the queue, an inline client hears them and comes again.
pub fn later(words: &'static str) -> Cells {
    let log = Log::Relay("deferred", words);
    cells(waits(words, log), put_off(words, log))
}

/// Refused for good with these words: transport mail is bounced, an inline client hears them.
pub fn never(words: &'static str) -> Cells {
    let log = Log::Relay("refused", words);
    let bounced = Cell { reply: Some("250"), queue: Queue::Bounced(words), tickets: 0, log, in_the_end: 0 };
    cells(bounced, Cell { in_the_end: 0, ..put_off(words, log) })
}

/// Taken all the same.
pub fn ticket() -> Cells {
    let cell = arrives(Log::Relay("relayed", "250"));
    cells(cell, cell)
}

/// Accepted, and in the queue.
pub fn waits(words: &'static str, log: Log) -> Cell {
    Cell { reply: Some("250"), queue: Queue::Waits(words), tickets: 0, log, in_the_end: 1 }
}

/// The client hears it and keeps the message.
pub fn put_off(words: &'static str, log: Log) -> Cell {
    Cell { reply: Some(words), queue: Queue::Empty, tickets: 0, log, in_the_end: 1 }
}

/// Accepted, and a ticket.
pub fn arrives(log: Log) -> Cell {
    Cell { reply: Some("250"), queue: Queue::Empty, tickets: 1, log, in_the_end: 1 }
}

/// Whether `text` begins with or holds the pieces of `words`, which `…` separates, in their order.
pub fn says(text: &str, words: &str) -> bool {
    let mut rest = text;
    words.split('…').map(str::trim).all(|piece| match rest.find(piece) {
        Some(at) => {
            rest = rest.get(at + piece.len()..).unwrap_or_default();
            true
        }
        None => false,
    })
}
