"""Where what a model wrote is executed: a process without the environment's secrets, bounded in time, memory and reach.

    sql.py       the run's side: SQL on a database made from a script
    sql_child.py the process that executes it, a script that imports nothing of ours

A query may read the database and compute; the child's own guards see to that, and the run's deadline to the child.
Not here: Python or shell code. Their processes could undo the limits that SQL has no words for.
"""

from workbench.sandbox.sql import QueryError, SqlSandbox

__all__ = ["QueryError", "SqlSandbox"]
