//! Takes over what another program was configured to do.
//!
//! In: the text of the other program's files. Out: typed entries that answer as that program would, deskmilter's own
//! configuration for the same, and a remark for each thing that has no equivalent. Changes nothing.

pub mod opendkim;
