//! The whole life of a controller process on one page: open the store, bind three listeners, run the loops, drain.
