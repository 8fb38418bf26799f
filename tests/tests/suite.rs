//! Tests over the whole workspace, in one binary. Each module is a suite of its own and says what it holds.

mod architecture;
