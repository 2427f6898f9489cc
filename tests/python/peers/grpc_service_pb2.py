"""Under this name tritonclient's messages say they live; Ray pickles them between its processes and looks here."""

from tritonclient.grpc.service_pb2 import *  # noqa: F403
