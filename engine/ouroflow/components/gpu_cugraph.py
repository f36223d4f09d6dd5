"""Strong components by cuGraph (``--scc cugraph``): a second opinion, and the peer to measure against.

``cugraph.strongly_connected_components`` was written anew for 26.06: linear memory, one device. Its labels are any numbers;
they become ours here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ouroflow.components.gpu import _numbered
from ouroflow.errors import ResourceError

if TYPE_CHECKING:
    from ouroflow.runtime.launch import Accelerator, Array


def labels_by_cugraph(
    on: Accelerator, payer: Array, payee: Array, companies: int
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Label the strong components, with our numbers.

    Parameters
    ----------
    on : Accelerator
        A CUDA device.
    payer, payee : device arrays of shape (flows,)
        int32 or int64, both alike; ids in 0..companies-1.
    companies : int

    Returns
    -------
    labels : device array of shape (companies,)
        Of the dtype of the ids.
    sizes : int64 array of shape (components of two or more companies,)
        On the host.

    Raises
    ------
    ResourceError
        If cuGraph cannot be imported.
    """
    try:
        import cudf
        import cugraph
    except (ImportError, RuntimeError) as error:  # RuntimeError: it is installed for another driver
        raise ResourceError(
            f"--scc cugraph: cuGraph cannot be imported ({error}); install ouroflow[cu12] or ouroflow[cu13], or leave --scc out"
        ) from error
    xp, ids = on.xp, payer.dtype
    component = xp.arange(companies, dtype=ids)
    if payer.size:
        graph = cugraph.Graph(directed=True)  # of an undirected one it has no strong components
        flows = cudf.DataFrame({"payer": payer, "payee": payee})
        # Our ids are dense already; numbering them again would only cost time and memory.
        graph.from_cudf_edgelist(flows, source="payer", destination="payee", renumber=False)
        found = cugraph.strongly_connected_components(graph)
        company, label = (xp.asarray(found[column].values) for column in ("vertex", "labels"))
        distinct, place = xp.unique(label, return_inverse=True)
        # Unsigned: CuPy has no atomic minimum of int64.
        smallest = xp.full(distinct.size, companies, xp.uint64)
        xp.minimum.at(smallest, place, company.astype(xp.uint64))
        component[company] = smallest[place].astype(ids)
    return _numbered(on, component)
