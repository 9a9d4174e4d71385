"""Start a Ray cluster of several nodes on this machine, to try node failures.

    python deploy/local_cluster.py --nodes 2 --cpus 2
    recdiv train data.prepared=/abs/shop run.storage=/abs/runs scaling.address=HOST:PORT ...

Each node is a separate raylet, as on a separate machine. `kill -9` a raylet and watch a run
continue. Prints the nodes, the address for jobs and the address to join. Ctrl-C stops everything.
Jobs from `recdiv submit` need separate machines or a single node. Ray 2.60 unpacks the files of a
job once per node. Here all nodes share the path, so a later node deletes the job's files.
"""

import argparse
import signal

from ray.cluster_utils import Cluster


def main() -> None:
    """Start the cluster, wait for Ctrl-C, stop the cluster."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--nodes", type=int, default=2, help="worker nodes beside the head (default 2)"
    )
    parser.add_argument("--cpus", type=int, default=2, help="CPUs of each worker node (default 2)")
    parser.add_argument(
        "--port", type=int, default=8265, help="port of the dashboard and of jobs (default 8265)"
    )
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
