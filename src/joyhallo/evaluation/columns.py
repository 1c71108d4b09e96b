"""How every number is read: its title, which direction is better, and what it means."""

from dataclasses import dataclass

HIGHER, LOWER, NEITHER = 1, -1, 0


@dataclass(frozen=True)
class Column:
    """One column of the tables."""

    name: str  # of the measure
    title: str
    better: int  # HIGHER, LOWER or NEITHER
    meaning: str
    decimals: int = 3

    @property
    def heading(self) -> str:
        """The title with an arrow to the better side."""
        return self.title + {HIGHER: " ↑", LOWER: " ↓", NEITHER: ""}[self.better]


# The columns of the paper's tables, in its order.
PAPER = (
    Column("iqa", "IQA", HIGHER, "quality of single frames by Q-Align, 0 to 1", 4),
    Column("vqa", "VQA", HIGHER, "quality of the video by Q-Align, 0 to 1", 4),
    Column("sync_c", "Sync-C", HIGHER, "SyncNet's confidence: median distance minus the smallest", 4),
    Column("sync_d", "Sync-D", LOWER, "SyncNet's smallest distance between lips and sound", 4),
    Column("smooth", "Smooth", HIGHER, "motion smoothness: frames left out and interpolated again", 4),
    Column("subject", "Subject", HIGHER, "DINO features of a frame against the first one and the one before", 4),
    Column("background", "Background", HIGHER, "CLIP features of whole frames, likewise; there is no mask", 4),
)
ALWAYS = (
    Column("lip_sync", "Lip sync", HIGHER, "correlation of the lips with what the speech asks for; filmed: 0.8"),
    Column("lip_sync_offset", "Lip offset", NEITHER, "frames of 1/25 s by which the lips are late; 0 is in time", 1),
    Column("lip_sync_confidence", "Lip confidence", HIGHER, "how clearly that offset stands out"),
    Column("sync_offset", "Sync offset", NEITHER, "frames by which SyncNet finds the sound early", 1),
    Column("lip_amplitude", "Lip amplitude", NEITHER, "how far the lips open in speech, in eye distances; filmed: 0.1 to 0.2"),
    Column("lips_closed_in_silence", "Closed in silence", HIGHER, "share of silent frames with closed lips"),
    Column("identity_stability", "Identity steady", HIGHER, "mean cosine of face embeddings between any two moments"),
    Column("identity_likeness", "Identity likeness", HIGHER, "mean cosine of face embeddings with the portrait"),
    Column("sharpness", "Sharpness", NEITHER, "fine detail of the face over the portrait's; 1 is equal, more is noise", 2),
    Column("background_change", "Backdrop change", LOWER, "grey levels by which the background leaves the first frame", 2),
    Column("flicker", "Flicker", LOWER, "grey levels that jump and come back at once", 2),
    Column("warp_error", "Warp error", LOWER, "grey levels between every second frame and half the motion around it", 2),
    Column("head_motion", "Head motion", NEITHER, "spread of the head's turning in degrees; 0 is stiff", 2),
    Column("blink_rate", "Blinks", NEITHER, "blinks a minute; people at rest: 10 to 20, in conversation up to 30", 1),
)  # fmt: skip
MANDARIN = (
    Column("viseme_closed", "Closed b p m", HIGHER, "share of b, p, m on which the lips close"),
    Column("viseme_apart", "Apart d t g …", HIGHER, "share of other initials on which the lips are not closed"),
    Column("viseme_rounded", "Rounded u ü o", HIGHER, "share of u, ü, o on which the lips are rounded"),
    Column("viseme_spread", "Spread i", HIGHER, "share of i on which the lips are spread"),
    Column("viseme_open", "Open a", HIGHER, "share of a on which the lips are open"),
    Column("viseme_total", "Visemes", HIGHER, "mean of the classes; a mouth that stays closed reaches 0.2"),
)
_KNOWN = {column.name: column for column in (*PAPER, *ALWAYS, *MANDARIN)}


def columns_of(names: set[str]) -> list[Column]:
    """The columns of the measures in `names`, in the order of the tables; unknown measures come last."""
    known = [column for column in _KNOWN.values() if column.name in names]
    others = sorted(names - _KNOWN.keys())
    return known + [Column(name, name.replace("_", " "), NEITHER, "") for name in others]
