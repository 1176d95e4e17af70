"""The command line ``ownkey``."""

import os
import sys

# gRPC reads this while it is loaded, which the next import may do. What it has to say of a connection, the command says
# in its own words; -v, or a variable of the user's, shows it all the same.
if not {"-v", "--verbose"} & set(sys.argv):
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
