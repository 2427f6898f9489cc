"""An S3 of its own process (moto), with one bucket. Prints where it listens, and serves until it is ended.

usage: s3_server.py BUCKET
"""

import signal
import sys
import urllib.request

from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
bucket = urllib.request.Request(f"http://{host}:{port}/{sys.argv[1]}", method="PUT")
assert urllib.request.urlopen(bucket).status == 200
print(f"{host}:{port}", flush=True)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
server.stop()
