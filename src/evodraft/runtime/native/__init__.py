"""Decoder layers in C++, compiled where they are first used. Does not know slots' lengths, sampling or drafts."""
