"""Conversations in a database: SQLite by default, PostgreSQL by URL.

The model. **Messages** are immutable, and named by a hash over their parent's name and themselves: a chain. What two
conversations share at their beginning is the same rows. A **session** is a tip in its tenant's tree of messages, which
moves: so a fork is one row and the history of a session is the walk from its tip to the root. **Turns** carry
provenance, because message rows are shared: which request led from which input to which answer, how it ended, what it
used, what it found in the cache. A turn's row changes once, at its end; while it is live it is the only live one of its
session. A **response** is the wire's object at a turn's end. The **journal** holds the tokens of turns that run; at the
end of a turn they become a message. **Prefixes** are the operator's: beginnings whose KV blocks all tenants share.
**API keys** say which tenant somebody is; of the keys themselves only digests are here. The **audit** says what was
done that users may not do: rows are added to it, and the database itself refuses to change one.
**Limits** are what an operator allows
a tenant or a key other than what the settings say. **History** is what all turns found in the cache, by the minute.

Every message is needed by a session or a turn; deleting the last of these deletes the message.

What is acknowledged is on the disk: the beginning and the end of a turn outlive a power cut, journalled tokens outlive
the death of the process. The clock is the caller's: times come in as ``now``.
"""

from chatpager.store.chain import MessageHash
from chatpager.store.keys import digest_of, new_key
from chatpager.store.records import (
    ApiKey,
    AuditEntry,
    BegunTurn,
    Content,
    DeletedSession,
    EndStatus,
    Finished,
    FinishedTurn,
    Journaled,
    JournalEntry,
    Limits,
    Message,
    NewMessage,
    NewTurn,
    Prefix,
    Recovered,
    Role,
    Session,
    TenantRow,
    TipMove,
    Turn,
    TurnAlone,
    TurnKind,
    TurnStatus,
    text_content,
    text_of,
)
from chatpager.store.store import Store

__all__ = [
    "ApiKey",
    "AuditEntry",
    "BegunTurn",
    "Content",
    "DeletedSession",
    "EndStatus",
    "Finished",
    "FinishedTurn",
    "JournalEntry",
    "Journaled",
    "Limits",
    "Message",
    "MessageHash",
    "NewMessage",
    "NewTurn",
    "Prefix",
    "Recovered",
    "Role",
    "Session",
    "Store",
    "TenantRow",
    "TipMove",
    "Turn",
    "TurnAlone",
    "TurnKind",
    "TurnStatus",
    "digest_of",
    "new_key",
    "text_content",
    "text_of",
]
