"""The kernels of the strong components, as ``kernels/components.cu`` defines them."""

from __future__ import annotations

from ouroflow.runtime.launch import Program

SMALL_BLOCK = 1024
"""Threads of the one block that expands small frontiers."""

PROGRAM = Program("components.cu")
INDEX = ("Index",)

_OUTGOING = ("const int64*", "const Index*")
_ONE_LIST = ("Index*", "uint32*", "int64*")
_ROWS = ("const Index*", "const int64*", "int64", "int64")
_SMALL = ("Index*", "uint32*", "Index*", "uint32*", "int64", "int64", "int64", "int64", "int64")
_FLOWS = ("const Index*", "const Index*", "int64")
_KEPT = ("Index*", "Index*", "int64*")

BEGIN_TRIM = PROGRAM.kernel(
    "begin_trim", "const int64*", "const int64*", "int64", "uint32*", "uint32*", "uint32*", *_ONE_LIST, types=INDEX
)
RELEASE_ROWS = PROGRAM.kernel(
    "release_rows", *_OUTGOING, *_OUTGOING, *_ROWS, "uint32*", "uint32*", "uint32*", *_ONE_LIST, types=INDEX
)
RELEASE_SMALL = PROGRAM.kernel(
    "release_small",
    *_OUTGOING,
    *_OUTGOING,
    *_SMALL,
    *("uint32*", "uint32*", "uint32*", "int64*"),
    types=INDEX,
    block=SMALL_BLOCK,
)
LINK_CHAINS = PROGRAM.kernel(
    "link_chains", *_OUTGOING, "int64", "int64", "const uint32*", "const uint32*", "Index*", types=INDEX
)
JUMP_LINKS = PROGRAM.kernel("jump_links", "Index*", "int64", "int64*", types=INDEX)
CUT_CHAINS = PROGRAM.kernel(
    "cut_chains",
    *("const int64*", "const int64*", "int64", "const Index*", "int32", "uint32*", "uint32*"),
    *_ONE_LIST,
    types=INDEX,
)

PUSH_LEVEL = PROGRAM.kernel("push_level", *_OUTGOING, *_ROWS, "uint32*", "uint32*", *_ONE_LIST, types=INDEX)
PUSH_SMALL = PROGRAM.kernel(
    "push_small", *_OUTGOING, *_SMALL, "uint32*", "uint32*", "int64*", types=INDEX, block=SMALL_BLOCK
)
PULL_LEVEL = PROGRAM.kernel(
    "pull_level", "const int64*", *_OUTGOING, "int64", "int64", "uint32*", "uint32*", *_ONE_LIST, types=INDEX
)
PULL_LONG_ROWS = PROGRAM.kernel(
    "pull_long_rows", "const int64*", *_OUTGOING, *_ROWS, "uint32*", "uint32*", *_ONE_LIST, types=INDEX
)

COUNT_MEMBERS = PROGRAM.kernel("count_members", "const uint32*", "int64", "int64*")
LIST_MEMBERS = PROGRAM.kernel(
    "list_members", "const uint32*", "const int64*", "int64", "const int64*", "Index*", "uint32*", types=INDEX
)
KEEP_INNER_FLOWS = PROGRAM.kernel(
    "keep_inner_flows", *_OUTGOING, *_ROWS, "const uint32*", "const uint32*", "const int64*", *_KEPT, types=INDEX
)
LINK_FLOWS = PROGRAM.kernel("link_flows", *_FLOWS, "Index*", "Index*", types=INDEX)
KEEP_LIVE_FLOWS = PROGRAM.kernel("keep_live_flows", *_FLOWS, "const Index*", "const Index*", *_KEPT, types=INDEX)

BEGIN_SIGNATURES = PROGRAM.kernel("begin_signatures", "int64", "int32", "Index*", "Index*", types=INDEX)
SPREAD_SIGNATURES = PROGRAM.kernel("spread_signatures", *_FLOWS, "Index*", "Index*", "int64*", types=INDEX)
JUMP_SIGNATURES = PROGRAM.kernel("jump_signatures", "int64", "int32", "Index*", "Index*", "int64*", types=INDEX)
PICK_PATHS = PROGRAM.kernel("pick_paths", *_FLOWS, "Index*", "Index*", types=INDEX)
DOUBLE_PATHS = PROGRAM.kernel("double_paths", "const Index*", "Index*", "int64", "Index*", "Index*", types=INDEX)
FINISH_PLACES = PROGRAM.kernel(
    "finish_places", "int64", "int32", "const Index*", "const Index*", "const Index*", "Index*", types=INDEX
)
KEEP_UNDECIDED_FLOWS = PROGRAM.kernel(
    "keep_undecided_flows", *_FLOWS, "const Index*", "const Index*", *_KEPT, types=INDEX
)
MARK_ENDS = PROGRAM.kernel("mark_ends", *_FLOWS, "uint8*", types=INDEX)
RENUMBER_ENDS = PROGRAM.kernel("renumber_ends", "Index*", "Index*", "int64", "const int64*", types=INDEX)

NAME_MEMBERS = PROGRAM.kernel("name_members", "const uint32*", "int64", "Index", "Index*", types=INDEX)
MEASURE_COMPONENTS = PROGRAM.kernel("measure_components", "const Index*", "int64", "Index*", "Index*", types=INDEX)
WRITE_LABELS = PROGRAM.kernel(
    "write_labels",
    *("const Index*", "const Index*", "const Index*", "const int64*", "int64", "int64", "Index*"),
    types=INDEX,
)

PACK_FLOWS = PROGRAM.kernel("pack_flows", *_FLOWS, "int32", "uint64*", types=INDEX)
UNPACK_FLOWS = PROGRAM.kernel("unpack_flows", "const uint64*", "int64", "int32", "Index*", types=INDEX)
