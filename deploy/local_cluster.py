"""Start a Ray cluster of several nodes on this machine, to try jobs and faults before a cloud does.

    python deploy/local_cluster.py --nodes 2 --cpus 2
    python -m pipelines.submit -- train data.prepared=/abs/shop run.storage=/abs/runs ...

Each node is a raylet of its own, as on a machine of its own: `kill -9` one and see a run go on
without it. Prints the nodes, where jobs go and how to join; Ctrl-C stops everything.
"""

import argparse
import signal

from ray.cluster_utils import Cluster


def main() -> None:
    """Start, wait, stop."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=2, help="besides the head, which only leads")
    parser.add_argument("--cpus", type=int, default=2, help="of each node")
    parser.add_argument("--port", type=int, default=8265, help="of the dashboard, which takes jobs")
    args = parser.parse_args()
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": args.port}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(args.nodes):
            node = cluster.add_node(num_cpus=args.cpus)
            print(f"node {node.node_id} raylet {node.all_processes['raylet'][0].process.pid}")
        print(f"jobs --address http://{cluster.head_node.webui_url}")
        print(f"join scaling.address={cluster.address}", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print("stopping", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
