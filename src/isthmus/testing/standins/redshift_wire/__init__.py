"""A server that speaks Redshift's protocol and SQL, with a real PostgreSQL and a real S3 behind it.

It relays the protocol, so passwords, users, rights, transactions, locks and temporary tables are PostgreSQL's own. What
Redshift says in other words is rewritten (`rewriting`), what it has and PostgreSQL has not is made in the database
(`catalog`), and COPY and UNLOAD move objects of the S3 server inside the client's transaction (`copying`). Statements
it does not know go to PostgreSQL as they are, and fail there: nothing is passed over in silence.
"""
