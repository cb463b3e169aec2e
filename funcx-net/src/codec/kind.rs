//! The number of each message kind on the wire.

use funcx_core::message::Message;

macro_rules! kinds {
    ($($name:ident = $number:literal,)*) => {
        /// What a frame is. Numbers are never changed and never used again; those from 0x80 on go down the tree.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Kind {
            $($name = $number,)*
        }

        impl Kind {
            /// The kind with this number.
            pub(super) const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The word for this kind in errors.
            pub(super) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// The kind of a message.
            pub(super) const fn of(message: &Message) -> Self {
                match message {
                    $(Message::$name { .. } => Self::$name,)*
                }
            }
        }
    };
}

kinds! {
    Hello = 0x01,
    Held = 0x02,
    Capacity = 0x03,
    Outcomes = 0x04,
    TaskEvents = 0x05,
    Report = 0x06,
    Pong = 0x07,
    Goodbye = 0x08,
    GaveBack = 0x09,
    Warm = 0x0a,
    Welcome = 0x81,
    Refused = 0x82,
    Functions = 0x83,
    Tasks = 0x84,
    Cancel = 0x85,
    OutcomesAcked = 0x86,
    Drain = 0x87,
    Ping = 0x88,
    Abandon = 0x89,
    ForgetValues = 0x8a,
}
